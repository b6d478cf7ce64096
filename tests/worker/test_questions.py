"""What a real model says of texts and chats, and that streams go on meanwhile."""

import asyncio
import time

import pytest

from shimmy.core import ipc
from shimmy.core.errors import RequestError, TooLarge, Unsupported, WorkerLost
from shimmy.core.events import TextDelta
from shimmy.core.request import Chat, Generation, Infill, Message, Sampling, Text, Tokens
from shimmy.pool.handle import Handle
from shimmy.pool.process import spawn_worker
from shimmy.worker.engine import Engine
from shimmy.worker.prompt import Prompter
from tests.worker.conftest import DEMO

pytestmark = pytest.mark.model
CHAT = Chat([Message("user", "Hi")])


@pytest.fixture(scope="module")
def prompter(engine: Engine) -> Prompter:
    return engine.prompter()


def tokens_of(prompter: Prompter, text: str, **fields: bool) -> list[int]:
    (answer,) = prompter.answer(ipc.Tokenize(Text(text), **fields))
    assert isinstance(answer, ipc.Tokenized)
    return answer.tokens


def text_of(prompter: Prompter, question: ipc.Detokenize | ipc.Render) -> str:
    (answer,) = prompter.answer(question)
    assert isinstance(answer, ipc.Written)
    return answer.text


@pytest.mark.parametrize("text", ["Hello, world!", "naïve — 你好 🌍", "<|im_start|>user\n\n", ""])
def test_tokens_and_back(prompter: Prompter, text: str) -> None:
    assert text_of(prompter, ipc.Detokenize(tokens_of(prompter, text))) == text


def test_special_tokens_are_parsed_or_not(prompter: Prompter) -> None:
    assert len(tokens_of(prompter, "<|im_end|>")) == 1
    assert len(tokens_of(prompter, "<|im_end|>", parse_special=False)) > 1


def test_pieces_make_the_text(prompter: Prompter) -> None:
    (answer,) = prompter.answer(ipc.Tokenize(Text("🌍 <|im_end|>"), spelled=True))
    assert isinstance(answer, ipc.Tokenized) and len(answer.pieces) == len(answer.tokens)
    assert b"".join(answer.pieces).decode() == "🌍 <|im_end|>"


def test_a_chat_is_counted_as_it_is_computed(prompter: Prompter) -> None:
    rendered = text_of(prompter, ipc.Render(CHAT))
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    computed = prompter.prepare(Generation(id="1", model="m", prompt=CHAT)).prompt
    assert prompter.answer(ipc.CountTokens(CHAT)) == [ipc.Counted(len(computed))]
    assert prompter.answer(ipc.Tokenize(CHAT)) == [ipc.Tokenized(computed.tolist())]
    assert tokens_of(prompter, rendered) == computed.tolist()


def test_what_does_not_fit_is_counted_all_the_same(prompter: Prompter) -> None:
    assert prompter.answer(ipc.CountTokens(Tokens([1] * 5000))) == [ipc.Counted(5000)]


def test_long_answers_come_in_parts(prompter: Prompter) -> None:
    tokens = prompter.answer(ipc.Tokenize(Text("word " * 10_000), spelled=True))
    assert len(tokens) > 1 and all(isinstance(part, ipc.Tokenized) for part in tokens)
    pieces = [piece for part in tokens if isinstance(part, ipc.Tokenized) for piece in part.pieces]
    assert b"".join(pieces).decode() == "word " * 10_000
    assert all(len(ipc.encode(ipc.Answer(1, part, more=True))) < 1 << 16 for part in tokens)
    texts = prompter.answer(ipc.Detokenize([1000] * 10_000))
    assert len(texts) > 1 and all(isinstance(part, ipc.Written) for part in texts)


@pytest.mark.parametrize(
    ("question", "error", "param"),
    [
        (ipc.Detokenize([10**6]), RequestError, "tokens"),
        (ipc.Tokenize(Text("x" * (5 << 20))), TooLarge, "prompt"),
        (ipc.CountTokens(Infill("a", "b")), Unsupported, "suffix"),
        (ipc.Render(Chat([Message("user", "Hi")], continue_final=True)), RequestError, "continue_final_message"),
    ],
)
def test_what_is_wrong_is_named(
    prompter: Prompter, question: ipc.Question, error: type[RequestError], param: str
) -> None:
    with pytest.raises(error) as caught:
        prompter.answer(question)
    assert caught.value.param == param


def test_a_stream_goes_on_while_a_megabyte_is_tokenized() -> None:
    """And what is asked is answered while the stream runs."""
    text = " ".join(f"word{number}" for number in range(110_000))[: 1 << 20]

    async def test() -> None:
        load = ipc.Load([str(DEMO)], ipc.EngineOptions(context_length=8192, num_sequences=2))
        handle = Handle("demo", load, lambda fraction: None)
        await handle.open(spawn_worker)
        try:
            sampling = Sampling(temperature=0, ignore_eos=True)
            stream = await handle.submit(
                Generation(id="1", model="m", prompt=Text("Once upon a time"), sampling=sampling, max_tokens=8000)
            )
            arrivals: list[float] = []

            async def read() -> None:
                async for batch in stream:
                    arrivals.extend(time.monotonic() for event in batch if isinstance(event, TextDelta))

            reader = asyncio.create_task(read())
            while len(arrivals) < 3:
                await asyncio.sleep(0.01)
            # A machine that is busy with other things may let few steps through while one is answered.
            num_meanwhile = num_asked = 0
            while num_meanwhile < 5 and num_asked < 8:
                asked_at = time.monotonic()
                answer = await handle.ask(ipc.Tokenize(Text(text)))
                answered_at = time.monotonic()
                assert isinstance(answer, ipc.Tokenized) and len(answer.tokens) > 100_000
                margin = (answered_at - asked_at) / 4
                num_meanwhile += len([at for at in arrivals if asked_at + margin < at < answered_at - margin])
                num_asked += 1
            assert num_meanwhile >= 5
            assert not reader.done(), "the stream was over before the answers came"
            handle.abort(stream)
            reader.cancel()
            await asyncio.wait([reader])
        finally:
            await handle.close(WorkerLost("closed by the test"))

    asyncio.run(test())
