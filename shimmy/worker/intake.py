"""The intake thread: reads frames, renders, tokenizes, and hands the step thread what it can run as it is.

It never touches the llama context and never sends: the two threads meet at one queue.
"""

import logging
import threading
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

Asked = TypeVar("Asked", Generation, Embedding)
Prepared = TypeVar("Prepared", Request, Job)


class Prompter(Protocol):
    """What makes requests of generations (worker/prompt.py is the one of models that generate)."""

    def prepare(self, generation: Generation, /) -> Request: ...


class Intake:
    """Turns messages into commands until the server closes the pipe, which becomes `Closed`."""

    def __init__(
        self,
        messages: Iterable[ipc.ToWorker],
        prompter: Prompter,
        inputs: InputReader,
        commands: "SimpleQueue[Command]",
    ) -> None:
        self._messages = messages
        self._prompter = prompter
        self._inputs = inputs
        self._commands = commands

    def start(self) -> None:
        threading.Thread(target=self.run, name="intake", daemon=True).start()

    def run(self) -> None:
        try:
            for message in self._messages:
                self._handle(message)
        except ipc.FrameError as error:
            log.error("the server sent a broken frame: %s", error)
        finally:
            self._commands.put(Closed())

    def _handle(self, message: ipc.ToWorker) -> None:
        match message:
            case ipc.Generate(generation):
                self._commands.put(self._prepare(self._prompter.prepare, generation))
            case ipc.Embed(embedding):
                self._commands.put(self._prepare(self._inputs.prepare, embedding))
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
