"""The intake turns frames into commands, and nothing that arrives can end it but the end of the pipe."""

import array
import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from shimmy.core import ipc
from shimmy.core.errors import RequestError
from shimmy.core.events import Failed
from shimmy.core.request import Embedding, Generation, Text
from shimmy.worker import channel
from shimmy.worker.embedding import Job
from shimmy.worker.embedding_inputs import InputReader
from shimmy.worker.intake import Intake
from shimmy.worker.loop import Closed, Command
from shimmy.worker.prompt import Prompter
from shimmy.worker.sequence import Request


class FakePrompter(Prompter):
    def __init__(self) -> None:
        pass

    def prepare(self, generation: Generation) -> Request:
        assert isinstance(generation.prompt, Text)
        if generation.prompt.text == "wrong":
            raise RequestError("no", param="prompt")
        if generation.prompt.text == "bug":
            raise ZeroDivisionError("secret")
        return Request(generation, [1, 2], [], 0.0)

    def answer(self, question: ipc.Question) -> list[ipc.Tokenized | ipc.Counted | ipc.Written]:
        assert isinstance(question, ipc.CountTokens) and isinstance(question.prompt, Text)
        if question.prompt.text == "wrong":
            raise RequestError("no", param="prompt")
        if question.prompt.text == "bug":
            raise ZeroDivisionError("secret")
        return [ipc.Written("a"), ipc.Counted(3)]


class FakeInputReader(InputReader):
    def __init__(self) -> None:
        pass

    def prepare(self, request: Embedding) -> Job:
        if request.inputs == ["wrong"]:
            raise RequestError("no", param="input")
        return Job(request, [array.array("i", [1])], "mean", 0.0)


def generate(text: str) -> ipc.Generate:
    return ipc.Generate(Generation(id=text, model="m", prompt=Text(text)))


def commands_for(
    messages: Iterator[ipc.ToWorker], send: Callable[[ipc.Answer], None] = lambda answer: None
) -> list[Command]:
    queue: SimpleQueue[Command] = SimpleQueue()
    Intake(messages, FakePrompter(), FakeInputReader(), queue, send).run()
    return [queue.get() for _ in range(queue.qsize())]


def test_messages_become_commands_in_order() -> None:
    request, abort, closed = commands_for(iter([generate("ok"), ipc.Abort("ok")]))
    assert isinstance(request, Request) and request.id == "ok"
    assert abort == ipc.Abort("ok")
    assert closed == Closed()


def test_what_vectors_are_made_of_goes_another_way() -> None:
    messages = [ipc.Embed(Embedding(id=text, model="m", inputs=[text])) for text in ("fine", "wrong")]
    fine, wrong, _ = commands_for(iter(messages))
    assert isinstance(fine, Job) and fine.id == "fine"
    assert isinstance(wrong, Failed) and wrong.fault.param == "input"


def test_errors_fail_their_request_and_reveal_nothing() -> None:
    wrong, bug, fine, _ = commands_for(iter([generate("wrong"), generate("bug"), generate("ok")]))
    assert isinstance(wrong, Failed) and wrong.fault.param == "prompt"
    assert isinstance(bug, Failed) and "secret" not in bug.fault.message
    assert isinstance(fine, Request)


def test_questions_are_answered_past_the_queue() -> None:
    answers: list[ipc.Answer] = []
    asks = [ipc.Ask(7 + at, ipc.CountTokens(Text(text))) for at, text in enumerate(("wrong", "bug", "ok"))]
    assert commands_for(iter(asks), answers.append) == [Closed()]
    wrong, bug, first, fine = answers
    assert isinstance(wrong.answer, ipc.Refused) and wrong.answer.fault.param == "prompt"
    assert isinstance(bug.answer, ipc.Refused) and "secret" not in bug.answer.fault.message
    assert first == ipc.Answer(9, ipc.Written("a"), more=True)
    assert fine == ipc.Answer(9, ipc.Counted(3))


def test_a_server_that_has_gone_before_its_answer_ends_the_worker() -> None:
    def send(answer: ipc.Answer) -> None:
        raise BrokenPipeError

    assert commands_for(iter([ipc.Ask(1, ipc.CountTokens(Text("ok"))), generate("ok")]), send) == [Closed()]


def test_frames_of_two_threads_arrive_whole() -> None:
    receiving, sending = os.pipe()
    send = channel.Sender(sending)
    big, small = ipc.Answer(1, ipc.Written("x" * 300_000)), ipc.Answer(2, ipc.Counted(1))

    def send_often(message: ipc.Answer) -> None:
        for _ in range(20):
            send(message)

    writers = [threading.Thread(target=send_often, args=[message]) for message in (big, small)]
    for writer in writers:
        writer.start()
    reader, found = ipc.FrameReader(ipc.FromWorker), list[ipc.Answer]()
    while len(found) < 40:
        found += list(reader.feed(os.read(receiving, 65536)))
    for writer in writers:
        writer.join()
    os.close(receiving)
    os.close(sending)
    assert sorted(message.id for message in found) == [1] * 20 + [2] * 20


def test_a_broken_frame_ends_the_worker() -> None:
    receiving, sending = os.pipe()
    load = ipc.Load(["model.gguf"])
    os.write(sending, ipc.encode(load) + ipc.encode(generate("ok")) + b"\x04\x00\x00\x00junk")
    os.close(sending)
    messages = channel.receive(receiving)
    try:
        assert next(messages) == load
        assert [type(command) for command in commands_for(messages)] == [Request, Closed]
    finally:
        os.close(receiving)


def test_nothing_comes_before_a_model() -> None:
    receiving, sending = os.pipe()
    os.write(sending, ipc.encode(generate("early")))
    os.close(sending)
    try:
        with pytest.raises(ipc.FrameError):
            next(channel.receive(receiving))
    finally:
        os.close(receiving)


def test_a_frame_longer_than_the_pipe_arrives_whole() -> None:
    receiving, sending = os.pipe()
    message = ipc.LoadFailed(RequestError("x" * 300_000).fault())

    def send() -> None:
        channel.Sender(sending)(message)
        os.close(sending)

    writer = threading.Thread(target=send)
    writer.start()
    reader, found = ipc.FrameReader(ipc.FromWorker), []
    while data := os.read(receiving, 65536):
        found += list(reader.feed(data))
    writer.join()
    os.close(receiving)
    assert found == [message]
