"""A worker that serves nothing: started for one question, ended after its answer. It knows no question."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError, from_fault
from shimmy.pool.handle import CLOSE_SECONDS
from shimmy.pool.process import Exit, Spawn

Answer = TypeVar("Answer", bound=ipc.FromWorker)
Notice = TypeVar("Notice", bound=ipc.FromWorker)


class Inquiry(Generic[Answer, Notice]):
    """`task` says what the worker has to do, for messages: "list its devices". `on_notice` gets what it says before its
    answer. `exit` is how it ended, if no answer came before that.
    """

    def __init__(
        self, task: str, answer: type[Answer], notice: type[Notice], on_notice: Callable[[Notice], None]
    ) -> None:
        self.exit: Exit | None = None
        self._task = task
        self._kind, self._notice = answer, notice
        self._on_notice = on_notice
        self._answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def ask(self, spawn: Spawn, question: ipc.ToWorker) -> Answer:
        """Raises what the worker says is wrong, or `ShimmyError` when it ends or misbehaves."""
        worker = await spawn(self._on_message, self._on_end)
        try:
            worker.send(question)
            return await self._answer
        finally:
            await worker.close(CLOSE_SECONDS)

    def _on_message(self, message: ipc.FromWorker) -> None:
        if self._answer.done():
            raise ipc.FrameError(f"{type(message).__name__} came after the answer")
        if isinstance(message, self._notice):
            self._on_notice(message)
        elif isinstance(message, self._kind):
            self._answer.set_result(message)
        elif isinstance(message, ipc.LoadFailed):
            self._answer.set_exception(from_fault(message.fault))
        else:
            raise ipc.FrameError(f"{type(message).__name__} is no answer to the question")

    def _on_end(self, exit: Exit) -> None:
        if not self._answer.done():
            self.exit = exit
            self._answer.set_exception(ShimmyError(f"the worker process ended, and did not {self._task} ({exit})"))
