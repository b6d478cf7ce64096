"""The intake thread: reads frames, renders, tokenizes, and hands the step thread what it can run as it is.

It never touches the llama context: the two threads meet at one queue. What needs no context it answers itself, so that
no answer waits for a step.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Protocol, TypeVar

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError
from shimmy.core.events import Failed
from shimmy.core.request import Embedding, Generation
from shimmy.worker.embedding import Job
from shimmy.worker.embedding_inputs import InputReader
from shimmy.worker.loop import Closed, Command
from shimmy.worker.sequence import Request

log = logging.getLogger("shimmy.worker")

_PAUSE_SECONDS = 0.0002
Asked = TypeVar("Asked", Generation, Embedding)
Prepared = TypeVar("Prepared", Request, Job)


class Prompter(Protocol):
    """What makes requests of generations (worker/prompt.py is the one of models that generate), and has answers."""

    def prepare(self, generation: Generation, /) -> Request: ...
    def answer(self, question: ipc.Question, /) -> list[ipc.Tokenized | ipc.Counted | ipc.Written]: ...


class Intake:
    """Turns messages into commands until the server closes the pipe, which becomes `Closed`."""

    def __init__(
        self,
        messages: Iterable[ipc.ToWorker],
        prompter: Prompter,
        inputs: InputReader,
        commands: "SimpleQueue[Command]",
        send: Callable[[ipc.Answer], None],
    ) -> None:
        self._messages = messages
        self._prompter = prompter
        self._inputs = inputs
        self._commands = commands
        self._send = send

    def start(self) -> None:
        threading.Thread(target=self.run, name="intake", daemon=True).start()

    def run(self) -> None:
        try:
            for message in self._messages:
                self._handle(message)
        except ipc.FrameError as error:
            log.error("the server sent a broken frame: %s", error)
        except BrokenPipeError:
            # The server has gone, and an answer found nobody.
            pass
        finally:
            self._commands.put(Closed())

    def _handle(self, message: ipc.ToWorker) -> None:
        match message:
            case ipc.Generate(generation):
                self._commands.put(self._prepare(self._prompter.prepare, generation))
            case ipc.Embed(embedding):
                self._commands.put(self._prepare(self._inputs.prepare, embedding))
            case ipc.Ask():
                self._answer(message)
            case ipc.Abort() | ipc.Pause() | ipc.Resume():
                self._commands.put(message)
            case _:
                log.error("unexpected message %s", type(message).__name__)

    def _prepare(self, prepare: Callable[[Asked], Prepared], request: Asked) -> Prepared | Failed:
        try:
            return prepare(request)
        except ShimmyError as error:
            return Failed(request.id, error.fault())
        except Exception:
            log.exception("request %s could not be prepared", request.id)
            return Failed(request.id, ShimmyError("the request could not be prepared").fault())

    def _answer(self, ask: ipc.Ask) -> None:
        try:
            parts = self._prompter.answer(ask.question)
        except ShimmyError as error:
            return self._send(ipc.Answer(ask.id, ipc.Refused(error.fault())))
        except Exception:
            log.exception("a question could not be answered")
            fault = ShimmyError("the question could not be answered").fault()
            return self._send(ipc.Answer(ask.id, ipc.Refused(fault)))
        for part in parts[:-1]:
            self._send(ipc.Answer(ask.id, part, more=True))
            # Or this thread would have its next turn before the step thread has noticed that there was one.
            time.sleep(_PAUSE_SECONDS)
        self._send(ipc.Answer(ask.id, parts[-1]))
