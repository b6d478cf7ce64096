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
    """Of each key there is one question at a time. It is used by one thread at a time. `vain_seconds` is how long was
    waited for answers that did not come."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is how long an answer is waited for."""
        self.seconds = seconds
        self.vain_seconds = 0.0
        self._open: dict[object, Future[Any]] = {}

    def ask(self, key: object, question: Callable[[], Answer], *, anew: bool = False) -> Answer:
        """Raises what `question` does, and `NoAnswerError` when it takes too long: at once while an earlier one is
        open. The answer to that, when it comes, is taken for the next one's, unless that is to be asked `anew`."""
        late = self._open.get(key)
        if anew and late is not None and late.done():
            late = None
        answer: Future[Answer] = late or asked(question)
        self._open[key] = answer
        seconds = 0.0 if late else self.seconds
        if not wait([answer], seconds).done:
            self.vain_seconds += seconds
            raise NoAnswerError
        del self._open[key]
        return answer.result()


def asked(question: Callable[[], Answer]) -> "Future[Answer]":
    """Its answer, when it comes; the program may end before that."""
    future: Future[Answer] = Future()
    # Who gives it up does not end it.
    future.set_running_or_notify_cancel()

    def answer() -> None:
        try:
            future.set_result(question())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=answer, name="ask", daemon=True).start()
    return future
