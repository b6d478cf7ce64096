"""What a real model's worker says that it would compute."""

import msgspec
import pytest

from shimmy.core import ipc
from shimmy.core.errors import ContextOverflow
from shimmy.core.request import Chat, Constraint, Generation, Message, Sampling
from shimmy.worker.engine import Engine
from shimmy.worker.prompt import Prompter

pytestmark = pytest.mark.model
CHAT = Chat([Message("user", "Hi")])


@pytest.fixture(scope="module")
def prompter(engine: Engine) -> Prompter:
    return engine.prompter()


def explained(prompter: Prompter, generation: Generation) -> ipc.Explanation:
    parts = prompter.answer(ipc.Explain(generation))
    text = "".join(part.text for part in parts if isinstance(part, ipc.Written))
    return msgspec.json.decode(text, type=ipc.Explanation)


def test_it_says_what_will_be_computed(prompter: Prompter) -> None:
    constraint = Constraint("regex", "a+", "regex")
    sampling = Sampling.of(temperature=0.25, top_k=7)
    asked = Generation(id="1", model="m", prompt=CHAT, sampling=sampling, stop=["x"], constraint=constraint)
    told = explained(prompter, asked)
    request = prompter.prepare(asked)
    assert told.prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert told.prompt_tokens == len(request.prompt)
    assert told.max_tokens == told.context_length - told.prompt_tokens
    assert (told.template_source, told.stop) == ("gguf", ["x"])
    assert told.constraint == {"kind": "regex", "text": "a+", "field": "regex"}
    assert (told.sampling["temperature"], told.sampling["top_k"]) == (0.25, 7)
    assert set(told.sampling) == set(Sampling.__struct_fields__) - {"explicit"}
    limited = explained(prompter, msgspec.structs.replace(asked, max_tokens=3))
    assert limited.max_tokens == 3


def test_what_would_fail_fails(prompter: Prompter) -> None:
    long = Chat([Message("user", "word " * 50_000)])
    with pytest.raises(ContextOverflow):
        prompter.answer(ipc.Explain(Generation(id="1", model="m", prompt=long)))
