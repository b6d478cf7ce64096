"""Questions that may never be answered, such as those to a network mount whose server has gone: each is asked in a
thread of its own, which is left behind when it takes too long. Knows nothing of what is asked.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class NoAnswerError(Exception):
    """It takes too long."""


class Asking:
    """Of each key there is one question at a time. It is used by one thread at a time."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long an answer is waited for."""
        self._seconds = seconds
        self._open: dict[object, Future[Any]] = {}

    def ask(self, key: object, question: Callable[[], Answer]) -> Answer:
        """Raises what `question` does, and `NoAnswerError` when it takes too long: at once while an earlier one is
        open. The answer to that, when it comes, is taken for the next one's."""
        late = self._open.get(key)
        answer: Future[Answer] = late or _asked(question)
        self._open[key] = answer
        if not wait([answer], 0 if late else self._seconds).done:
            raise NoAnswerError
        del self._open[key]
        return answer.result()


def _asked(question: Callable[[], Answer]) -> "Future[Answer]":
    future: Future[Answer] = Future()

    def answer() -> None:
        try:
            future.set_result(question())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=answer, name="ask", daemon=True).start()
    return future
