"""Brings one blob: several streams, each with a range of its own, into a partial file; then its digest decides. It
knows no hub, only how to ask for a range.
"""

import re
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from math import ceil
from threading import Lock, Thread
from typing import Protocol

from shimmy.core.errors import DigestMismatch, PullFailed
from shimmy.store.http import Answer, Broken, Cancelled
from shimmy.store.partial import Follower, Partial

NUM_STREAMS = 4
# So many chunks are asked for at a time, at most.
MAX_RUN = 64
MAX_FAILURES = 5
# After the first failure; each further one doubles it.
PAUSE_SECONDS = 0.5
_BUFFER_BYTES = 256 << 10
# A try that brought less than this is a failure, however it ended.
_PROGRESS_BYTES = 64 << 10
_MAX_PAUSE_SECONDS = 30.0
_TURN_SECONDS = 0.1
# Python makes no number of thousands of digits.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class Requests(Protocol):
    """How a blob is asked for, from any thread."""

    def open(self, headers: Mapping[str, str]) -> AbstractContextManager[Answer]: ...

    def stop(self) -> None:
        """Raises `Cancelled` when nobody wants it any more."""

    def cancel(self) -> None:
        """Ends all requests that are under way."""


class _Run:
    """A range of bytes, from a chunk's beginning to a chunk's end, that one stream brings: how far it has come, and the
    checksum of the chunk it is in."""

    def __init__(self, start: int, end: int) -> None:
        self.position = start
        self.end = end
        self.checksum = 0


class Download:
    """Into a partial file that was checked. `note` is told how many bytes there are, and what they wait for, if that
    is known."""

    def __init__(self, partial: Partial, digest: str, requests: Requests, note: Callable[[int, str], None]) -> None:
        self._partial = partial
        self._digest = digest
        self._requests = requests
        self._note = note
        self._lock = Lock()
        self._waiting: list[int] = []
        self._unfinished: dict[int, int] = {}
        self._serves_ranges = False
        self._failure: BaseException | None = None
        # No host is asked for more before then (monotonic), because of what one of them said.
        self._held_until = 0.0
        self._held_by = ""

    def run(self) -> None:
        """Returns when the blob is whole and is what it was announced to be. Raises `DigestMismatch`, `PullFailed`,
        `Cancelled`, `OSError`."""
        partial = self._partial
        self._waiting = [chunk for chunk in range(partial.num_chunks) if chunk not in partial.arrived]
        follower = Follower(partial)
        # One alone finds out whether ranges are served at all.
        threads = [self._start()] if self._waiting else []
        try:
            while follower.num_hashed < partial.num_chunks:
                self._requests.stop()
                if self._failure is not None:
                    raise self._failure
                if self._serves_ranges and self._waiting and len(threads) < NUM_STREAMS:
                    threads.append(self._start())
                self._note(self._num_bytes(), waiting(self._held_by, self._held_until))
                if not follower.advance():
                    with partial.changed:
                        partial.changed.wait(_TURN_SECONDS)
        except BaseException as error:
            self._failure = error
            self._requests.cancel()
            raise
        finally:
            # What they write to must not be closed before.
            for thread in threads:
                thread.join()
        self._note(partial.size, "")
        if follower.hexdigest() != self._digest:
            raise DigestMismatch(
                f"what came for sha256:{self._digest} has the digest sha256:{follower.hexdigest()}; it was thrown away"
            )

    def _num_bytes(self) -> int:
        with self._lock:
            return self._partial.num_bytes + sum(self._unfinished.values())

    def _start(self) -> Thread:
        thread = Thread(target=self._stream, name="download", daemon=True)
        thread.start()
        return thread

    def _stream(self) -> None:
        try:
            while run := self._take():
                self._bring(run)
        except BaseException as error:
            self._failure = self._failure or error

    def _take(self) -> _Run | None:
        """The first chunks that nobody brings yet: smaller shares towards the end, so that all streams end together."""
        with self._lock:
            if not self._waiting or self._failure is not None:
                return None
            first, count = self._waiting[0], 1
            share = max(1, min(MAX_RUN, len(self._waiting) // (2 * NUM_STREAMS)))
            while count < share and count < len(self._waiting) and self._waiting[count] == first + count:
                count += 1
            del self._waiting[:count]
            return _Run(first * self._partial.chunk_bytes, self._end_of(first + count - 1))

    def _end_of(self, chunk: int) -> int:
        return chunk * self._partial.chunk_bytes + self._partial.length(chunk)

    def _bring(self, run: _Run) -> None:
        """As often as it takes: each try goes on where the one before was cut off."""
        num_failures = 0
        while run.position < run.end:
            before = run.position
            self._sleep(self._held_until)
            try:
                self._receive(run)
            except Broken as error:
                num_failures = 0 if run.position - before >= _PROGRESS_BYTES else num_failures + 1
                if num_failures > MAX_FAILURES:
                    raise PullFailed(f"given up after {num_failures} tries: {error}") from None
                self._pause(error, num_failures)

    def _receive(self, run: _Run) -> None:
        with self._requests.open({"Range": f"bytes={run.position}-{run.end - 1}"}) as answer:
            skip = self._skip(answer, run)
            buffer = memoryview(bytearray(_BUFFER_BYTES))
            while run.position < run.end:
                wanted = min(_BUFFER_BYTES, skip or self._end_of(self._chunk_of(run)) - run.position)
                count = answer.readinto(buffer[:wanted])
                if self._failure is not None:
                    raise Cancelled
                if not count:
                    raise Broken(f"{answer.url.origin} cut the connection")
                if skip:
                    skip -= count
                else:
                    self._keep(run, buffer[:count])

    def _skip(self, answer: Answer, run: _Run) -> int:
        """How many bytes come before those that were asked for. Who serves no ranges sends everything, once."""
        origin = answer.url.origin
        if answer.status == 206:
            match = _CONTENT_RANGE.fullmatch(answer.header("content-range"))
            if not match or int(match[1]) != run.position or int(match[3]) != self._partial.size:
                said = answer.header("content-range")[:80]
                raise PullFailed(f"{origin} sends {said!r} of a file of {self._partial.size} bytes")
            self._serves_ranges = True
            return 0
        if answer.status == 200:
            length = answer.header("content-length")
            if length and length != str(self._partial.size):
                raise PullFailed(f"{origin} has {length[:20]} bytes of a file of {self._partial.size}")
            with self._lock:
                if not self._serves_ranges:
                    self._waiting.clear()
                    run.end = self._partial.size
            return run.position
        raise answer.failure()

    def _chunk_of(self, run: _Run) -> int:
        return run.position // self._partial.chunk_bytes

    def _keep(self, run: _Run, piece: memoryview) -> None:
        chunk = self._chunk_of(run)
        self._partial.write(run.position, piece)
        run.checksum = zlib.crc32(piece, run.checksum)
        run.position += len(piece)
        is_whole = run.position == self._end_of(chunk)
        with self._lock:
            if is_whole:
                self._unfinished.pop(chunk, None)
                self._partial.finish(chunk, run.checksum)
                run.checksum = 0
            elif chunk not in self._partial.arrived:
                self._unfinished[chunk] = run.position % self._partial.chunk_bytes

    def _pause(self, error: Broken, num_failures: int) -> None:
        """For as long as the host says, all streams; else this one for a while."""
        now = time.monotonic()
        if error.wait_seconds is None:
            return self._sleep(now + min(PAUSE_SECONDS * 2**num_failures, _MAX_PAUSE_SECONDS))
        with self._lock:
            self._held_until, self._held_by = max(self._held_until, now + error.wait_seconds), str(error)

    def _sleep(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            if self._failure is not None:
                raise Cancelled
            time.sleep(min(left, _TURN_SECONDS))


def waiting(reason: str, until: float) -> str:
    """What is said of a host that wants us to stay away, and nothing once that is over."""
    left = until - time.monotonic()
    return f"waiting {ceil(left)} s: {reason}" if left > 0 else ""
