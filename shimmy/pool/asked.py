"""One question to a worker, from when it is asked until its answer has come, in one part or several."""

import asyncio

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError, from_fault

Answered = ipc.Tokenized | ipc.Counted | ipc.Written


class Asked:
    """`answer` is for one to await."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._parts: list[Answered] = []

    def push(self, part: Answered | ipc.Refused, *, more: bool) -> None:
        if isinstance(part, ipc.Refused):
            return self.fail(from_fault(part.fault))
        self._parts.append(part)
        if not more and not self.answer.done():
            self.answer.set_result(_joined(self._parts))

    def fail(self, error: ShimmyError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def forget(self) -> None:
        """Nobody waits any more: an error that has come meanwhile is nobody's."""
        if not self.answer.cancel() and not self.answer.cancelled():
            self.answer.exception()


def _joined(parts: list[Answered]) -> Answered:
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, ipc.Tokenized):
        whole = [part for part in parts if isinstance(part, ipc.Tokenized)]
        tokens = [token for part in whole for token in part.tokens]
        return ipc.Tokenized(tokens, [piece for part in whole for piece in part.pieces])
    return ipc.Written("".join(part.text for part in parts if isinstance(part, ipc.Written)))
