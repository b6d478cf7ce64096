"""Texts with a gap become prompts of the model's own tokens for that, and nothing but other files is cut."""

from pathlib import Path
from typing import Any

import pytest

from shimmy.core.errors import ContextOverflow, Unsupported
from shimmy.core.ipc import EngineOptions
from shimmy.core.request import File, Generation, Infill, Prompt, Sampling
from shimmy.worker.chat.template import ChatTemplate
from shimmy.worker.llama import backend
from shimmy.worker.llama.model import InfillTokens, Model
from shimmy.worker.loading import load_engine
from shimmy.worker.prompt import Prompter
from tests.worker import tiny_models
from tests.worker.test_engine import Session
from tests.worker.test_prompt import Letters, text_of


class Code(Letters):
    """No file of it is begun by a token of its own."""

    infill_tokens = InfillTokens(ord("("), ord("|"), ord(")"))


class Prose(Letters):
    infill_tokens = InfillTokens(None, ord("|"), None)


def prompt_of(
    prompt: Prompt, vocabulary: Letters | None = None, max_tokens: int | None = None, length: int = 200
) -> str:
    prompter = Prompter(vocabulary or Letters(), ChatTemplate(None, bos_token="^", eos_token="$"), length)
    generation = Generation(id="1", model="m", prompt=prompt, max_tokens=max_tokens)
    return text_of(prompter.prepare(generation).prompt)


def test_the_text_before_the_gap_comes_first() -> None:
    assert prompt_of(Infill("before", "behind"), Code()) == "^(before|behind)"
    assert prompt_of(Infill("before", "behind", "be"), Code()) == "^(beforebe|behind)"
    assert prompt_of(Infill("", ""), Code()) == "^(|)"


def test_what_looks_like_a_token_is_none() -> None:
    assert prompt_of(Infill("f(x", "(y"), Code()) == "^(f?x|?y)"


def test_other_files_come_before_it() -> None:
    extra = [File("a.py", "A"), File("b.py", "B")]
    assert prompt_of(Infill("x", "y", extra=extra)) == "^@myproject\n#a.py\nA#b.py\nB#filename\n(x|y)"
    snippet = "\n\n--- snippet ---\n\n"
    assert prompt_of(Infill("x", "y", extra=extra), Code()) == f"^{snippet}A{snippet}B(x|y)"


def test_of_other_files_as_much_as_fits_is_kept_with_what_is_nearest() -> None:
    prompt = Infill("x", "y", extra=[File("a.py", "A" * 300)])
    text = prompt_of(prompt, max_tokens=50)
    assert len(text) == 150 and text.startswith("^AAA") and text.endswith("A#filename\n(x|y)")


def test_what_does_not_fit_by_itself_is_refused() -> None:
    with pytest.raises(ContextOverflow) as caught:
        prompt_of(Infill("x" * 150, "y" * 60, extra=[File("a", "A")]))
    assert caught.value.details["num_prompt_tokens"] == 214


@pytest.mark.parametrize("field", ["suffix", "input_suffix"])
def test_a_model_that_cannot_is_named_with_the_field(field: str) -> None:
    with pytest.raises(Unsupported, match="no token for prefix and middle") as caught:
        prompt_of(Infill("x", "y", field=field), Prose())
    assert caught.value.param == field


@pytest.mark.model
def test_the_files_own_tokens_are_taken(tmp_path: Path) -> None:
    backend.start()
    tiny_models.infilling(tmp_path / "code.gguf")
    tiny_models.full(tmp_path / "prose.gguf")
    model = Model([str(tmp_path / "code.gguf")], lambda fraction: None)
    assert model.infill_tokens == InfillTokens(*range(tiny_models.FIRST_MARK, tiny_models.FIRST_MARK + 5))
    assert Model([str(tmp_path / "prose.gguf")], lambda fraction: None).infill_tokens == InfillTokens(None, None, None)


@pytest.mark.model
def test_a_model_that_can_fills_a_gap(tmp_path: Path) -> None:
    tiny_models.infilling(tmp_path / "code.gguf")
    options = EngineOptions(context_length=256, num_sequences=2)
    session = Session(load_engine([str(tmp_path / "code.gguf")], options, lambda fraction: None))
    gap = Infill("def f(", "):\n", "x, ", [File("a.py", "x = 1\n")])
    session.submit("a", gap, max_tokens=8, sampling=Sampling(temperature=0, ignore_eos=True))
    first, letters = tiny_models.FIRST_MARK, tiny_models.FIRST_TOKEN
    request: Any = session.commands.get()
    session.commands.put(request)
    assert [token - first for token in request.prompt if token >= first] == [3, 4, 4, 0, 1, 2]
    written = bytes(token - letters for token in request.prompt if letters <= token < first).decode()
    # SentencePiece begins each text with a space.
    assert written.replace("\u2581", "") == "myproject\na.py\nx=1\nfilename\ndeff(x,):\n"
    session.run()
    assert (session.finished("a").reason, session.finished("a").usage.completion_tokens) == ("length", 8)
