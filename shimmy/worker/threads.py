"""How many threads decode. ggml's threads wait for each other several hundred times per step, so when another process
takes a core, a step on all cores can be many times slower than one on a core less.

The governor watches the time of decode steps. It only ever trusts comparisons it made itself: a change is tried for a
few steps and kept if those were faster. It tries one when steps become slow against their running minimum, and now and
then all the same, since a machine may have been busy from the start or quiet again. Fewer threads are tried only while
our threads get less processor time than they ask for.
"""

from collections.abc import Callable
from enum import Enum

SLOW_FACTOR = 2.0
WINDOW_STEPS = 5
TRIAL_STEPS = 5
# A trial downwards must win clearly; upwards a tie is a win, since more threads is the normal state.
KEEP_BELOW = 0.9
# Waiting threads spin, so on a quiet machine `n` threads use nearly `n` seconds of processor time a second. A process
# that competes for one core takes half of it.
LOST_THREADS = 0.3
FIRST_PROBE_SECONDS = 1.0
LONGEST_PROBE_SECONDS = 16.0
# To be on a core less than there is costs more than to look for it in vain, and most disturbances are short.
FIRST_UPWARD_SECONDS = 0.25
LONGEST_UPWARD_SECONDS = 4.0
# The best step time ages, as a longer context makes steps slower without anybody competing.
BASELINE_DRIFT = 1.002


def _median(times: list[float]) -> float:
    """The upper one of two; importing `statistics` would cost a worker 5 ms of its start."""
    return sorted(times)[len(times) // 2]


class _State(Enum):
    STEADY = "steady"
    TRYING_FEWER = "trying fewer"
    TRYING_MORE = "trying more"


class ThreadGovernor:
    """Decides the thread count from observed step times. Owns nothing native: whoever decodes sets `num_threads`."""

    def __init__(self, max_threads: int, clock: Callable[[], float]) -> None:
        self.num_threads = max_threads
        self.max_threads = max_threads
        self._clock = clock
        self._lost: list[float] = []
        self._state = _State.STEADY
        self._num_rows = 0
        self._recent: list[float] = []
        self._before_trial = 0.0
        self._baseline: dict[tuple[int, int], float] = {}
        self._probe_seconds = FIRST_PROBE_SECONDS
        # Not at once: with its first answers, the server is busy with what it does once.
        self._probe_at: float | None = None

    def observe(self, num_rows: int, seconds: float, cpu_seconds: float) -> None:
        """Takes one decode step of `num_rows` rows, its time and what all our threads used of the processors meanwhile;
        `num_threads` is then right for the next one."""
        if num_rows != self._num_rows:
            self._num_rows = num_rows
            self._give_up_trial()
        self._recent.append(seconds)
        self._lost.append(self.num_threads - cpu_seconds / seconds)
        if self._state is _State.STEADY:
            self._watch(seconds)
        elif len(self._recent) >= TRIAL_STEPS:
            self._judge()

    def _watch(self, seconds: float) -> None:
        key = (self.num_threads, self._num_rows)
        baseline = min(seconds, self._baseline.get(key, seconds) * BASELINE_DRIFT)
        self._baseline[key] = baseline
        del self._recent[:-WINDOW_STEPS], self._lost[:-WINDOW_STEPS]
        if len(self._recent) < WINDOW_STEPS:
            return
        now = self._clock()
        if self._probe_at is None:
            self._probe_at = now + FIRST_PROBE_SECONDS
        due = now >= self._probe_at
        if due and self.num_threads < self.max_threads:
            self._try(self.num_threads + 1, _State.TRYING_MORE)
        elif self.num_threads > 1 and (due or _median(self._recent) > SLOW_FACTOR * baseline) and self._is_crowded():
            self._try(self.num_threads - 1, _State.TRYING_FEWER)

    def _is_crowded(self) -> bool:
        """Whether, of late, others had a good part of a core that we asked for."""
        return _median(self._lost) >= LOST_THREADS

    def _try(self, num_threads: int, state: _State) -> None:
        self._before_trial = _median(self._recent)
        self._recent.clear()
        self._state = state
        self.num_threads = num_threads

    def _give_up_trial(self) -> None:
        """Steps of different batches cannot be compared."""
        if self._state is _State.TRYING_FEWER:
            self.num_threads += 1
        elif self._state is _State.TRYING_MORE:
            self.num_threads -= 1
        self._state = _State.STEADY
        self._recent.clear()

    def _judge(self) -> None:
        seconds = _median(self._recent)
        if self._state is _State.TRYING_FEWER:
            kept = seconds < KEEP_BELOW * self._before_trial
            back = self.num_threads + 1
        else:
            kept = seconds <= self._before_trial
            back = self.num_threads - 1
        if kept:
            self._probe_seconds = FIRST_UPWARD_SECONDS if self.num_threads < self.max_threads else FIRST_PROBE_SECONDS
        else:
            self.num_threads = back
            longest = LONGEST_UPWARD_SECONDS if back < self.max_threads else LONGEST_PROBE_SECONDS
            self._probe_seconds = min(self._probe_seconds * 2, longest)
            # If steps had become slow, then of themselves: that is what normal means now.
            self._baseline[(back, self._num_rows)] = self._before_trial
        self._probe_at = self._clock() + self._probe_seconds
        self._state = _State.STEADY
        self._recent.clear()
