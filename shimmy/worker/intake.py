"""The intake thread: reads frames, renders, tokenizes, and hands the step thread what it can run as it is.

It never touches the llama context: the two threads meet at one queue. What needs no context it answers itself, so that
no answer waits for a step.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError
from shimmy.core.events import Failed
from shimmy.core.request import Generation
from shimmy.worker.loop import Closed, Command
from shimmy.worker.prompt import Prompter
from shimmy.worker.sequence import Request

log = logging.getLogger("shimmy.worker")


class Intake:
    """Turns messages into commands until the server closes the pipe, which becomes `Closed`."""

    def __init__(
        self,
        messages: Iterable[ipc.ToWorker],
        prompter: Prompter,
        commands: "SimpleQueue[Command]",
        send: Callable[[ipc.Answer], None],
    ) -> None:
        self._messages = messages
        self._prompter = prompter
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
                self._commands.put(self._prepare(generation))
            case ipc.Ask(id, question):
                self._send(ipc.Answer(id, self._answer(question)))
            case ipc.Abort() | ipc.Pause() | ipc.Resume():
                self._commands.put(message)
            case _:
                log.error("unexpected message %s", type(message).__name__)

    def _prepare(self, generation: Generation) -> Request | Failed:
        try:
            return self._prompter.prepare(generation)
        except ShimmyError as error:
            return Failed(generation.id, error.fault())
        except Exception:
            log.exception("request %s could not be prepared", generation.id)
            return Failed(generation.id, ShimmyError("the request could not be prepared").fault())

    def _answer(self, question: ipc.Question) -> ipc.Tokenized | ipc.Counted | ipc.Written | ipc.Refused:
        try:
            return self._prompter.answer(question)
        except ShimmyError as error:
            return ipc.Refused(error.fault())
        except Exception:
            log.exception("a question could not be answered")
            return ipc.Refused(ShimmyError("the question could not be answered").fault())
