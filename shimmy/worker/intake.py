"""The intake thread: reads frames, renders, tokenizes, and hands the step thread what it can run as it is.

It never touches the llama context: the two threads meet at one queue. What needs no context it answers itself, so that
no answer waits for a step.
"""

import logging
import threading
import time
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

_PAUSE_SECONDS = 0.0002


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
            case ipc.Ask():
                self._answer(message)
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
