"""How many tokens of prompts the next step may compute, and of which. Knows numbers, nothing of batches or cells.

Everyone whose sequence decodes waits for a whole step, so the prompts in it decide how smoothly running streams flow;
but each step also computes the decoding rows again, so small chunks of a prompt delay its first token. The pacer
learns what steps cost and makes them as long as this allows:

- SMOOTH_SECONDS are always allowed: hardly anybody sees a shorter gap.
- Up to LONGEST_SECONDS a step may take STRETCH times as long as one without prompts: they have nine tenths of the time
  then, and their first tokens come a ninth later than without the streams.
- Where even that is a slow step, prompts have three quarters of the time (LEAST_STRETCH), lest they never end.
- Chunks of fewer tokens than SMALL_CHUNK_TOKENS cost more for each, most of all on cores that others want too, so they
  are made only where such a chunk would take more than SMALL_CHUNK_SECONDS.

Other programs can make steps several times slower from one to the next, and not all kinds alike. So all that is used
was measured lately and under the same conditions: while prompts are computed there is a step without them now and then,
on as many threads. And no slow step means anything alone: of what a step without prompts costs, and of what a token
costs, the median of the last three counts. `python -m bench.chunks` shows both costs.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator

from shimmy.worker.sequence import Sequence

SMOOTH_SECONDS = 0.15
LONGEST_SECONDS = 0.75
STRETCH = 10
LEAST_STRETCH = 4
SMALL_CHUNK_TOKENS = 48
SMALL_CHUNK_SECONDS = 0.5
# Beside streams, while it is not known what a token costs.
UNKNOWN_CHUNK_TOKENS = 32
# While prompts are computed, so many steps are followed by one without, fewer at first; and so is one that took far too
# long.
STEPS_PER_PROBE = 8
# A prompt may be overtaken by shorter ones until it has waited as many times as long as it takes itself.
PATIENCE = 4

_NUM_RECENT = 3
_STEPS_TO_FIRST_PROBE = 2
# Fewer tokens of prompt alone say more about the fixed cost of a step than about a token.
_LEAST_TELLING_TOKENS = 32
_GUESSED_SECONDS = 0.002
# What a step without prompts costs grows with its rows, but it has a fixed part, which is worth about as many rows.
_FIXED_ROWS = 2
# A step that takes so many times what is allowed makes the next chunk smaller, before anything is known for certain.
_TOO_LONG = 1.5
_LEAST_SHARE = 0.125


class Pacer:
    """Owns what is known of the cost of a step: `observe` each, then ask for the `budget` of the next."""

    def __init__(self) -> None:
        # What a token of prompt costs, decoding rows left out.
        self._token_seconds: deque[float] = deque(maxlen=_NUM_RECENT)
        # What a row costs in a step without prompts, the fixed part shared out among the rows: while there are none,
        # when there were none right after those that the costs of a token are from, and while there are some.
        self._row_seconds: deque[float] = deque(maxlen=_NUM_RECENT)
        self._row_seconds_then: float | None = None
        self._probes: deque[float] = deque(maxlen=_NUM_RECENT)
        self._is_probing = False
        self._num_steps_to_probe = _STEPS_TO_FIRST_PROBE
        self._num_plain_steps = 0
        # How much of what is allowed the next chunk gets, and no more tokens than these.
        self._share = 0.5
        self._most_tokens: int | None = None

    @property
    def token_seconds(self) -> float:
        """What a token of prompt costs at the moment; a guess while nothing is known."""
        if not self._token_seconds:
            return _GUESSED_SECONDS
        seconds = _median(self._token_seconds)
        if self._row_seconds_then is None:
            return seconds
        return seconds * min(4.0, max(0.25, _median(self._row_seconds) / self._row_seconds_then))

    def observe(self, num_decoding: int, num_prefill: int, seconds: float) -> None:
        """Takes a step of so many rows that decoded and so many tokens of prompts."""
        if not num_prefill:
            self._observe_plain(seconds / (_FIXED_ROWS + num_decoding))
        elif num_decoding:
            self._observe_mixed(num_decoding, num_prefill, seconds)
        elif num_prefill >= _LEAST_TELLING_TOKENS:
            self._learn_token(seconds / num_prefill)

    def budget(self, num_decoding: int) -> int:
        """Tokens of prompts for a step in which so many sequences decode; now and then none, but never twice."""
        self._is_probing = self._num_steps_to_probe <= 0
        if self._is_probing:
            return 0
        if not self._token_seconds:
            return UNKNOWN_CHUNK_TOKENS
        plain, token_seconds = self._plain_seconds(num_decoding), self.token_seconds
        tokens = (allowed_seconds(plain) - plain) / token_seconds
        small = min(SMALL_CHUNK_TOKENS, (SMALL_CHUNK_SECONDS - plain) / token_seconds)
        tokens = int(self._share * max(tokens, small))
        return max(1, tokens if self._most_tokens is None else min(tokens, self._most_tokens))

    def budget_apart(self, num_waiting: int) -> int:
        """Tokens of prompts for a step of their own, for whose end so many sequences wait that decode."""
        if not self._token_seconds:
            return UNKNOWN_CHUNK_TOKENS
        token_seconds = self.token_seconds
        small = min(SMALL_CHUNK_TOKENS, SMALL_CHUNK_SECONDS / token_seconds)
        return max(1, int(max(allowed_seconds(self._plain_seconds(num_waiting)) / token_seconds, small)))

    def spare_seconds(self, num_decoding: int) -> float:
        """How much longer a step without prompts may take."""
        plain = self._plain_seconds(num_decoding)
        return allowed_seconds(plain) - plain

    def _observe_plain(self, row_seconds: float) -> None:
        if self._is_probing:
            self._is_probing = False
            self._num_steps_to_probe = STEPS_PER_PROBE
            self._probes.append(row_seconds)
            return
        self._row_seconds.append(row_seconds)
        self._num_plain_steps += 1
        if self._num_plain_steps == _NUM_RECENT:
            self._begin_again()

    def _begin_again(self) -> None:
        """No prompts any more; the next one comes to a machine that may be another one by then."""
        self._row_seconds_then = _median(self._row_seconds)
        self._probes.clear()
        self._num_steps_to_probe = _STEPS_TO_FIRST_PROBE
        self._share, self._most_tokens = 0.5, None

    def _observe_mixed(self, num_decoding: int, num_prefill: int, seconds: float) -> None:
        plain = self._plain_seconds(num_decoding)
        is_too_long = seconds > _TOO_LONG * max(allowed_seconds(plain), SMALL_CHUNK_SECONDS)
        self._share = max(_LEAST_SHARE, self._share / 2) if is_too_long else min(1.0, self._share * 2)
        self._most_tokens = 2 * num_prefill
        self._num_steps_to_probe = 0 if is_too_long else self._num_steps_to_probe - 1
        # However slow steps without prompts were, half of this one at least was the prompts'.
        self._learn_token(max(seconds - plain, seconds / 2) / num_prefill)

    def _learn_token(self, seconds: float) -> None:
        self._token_seconds.append(seconds)
        self._row_seconds_then = None
        self._num_plain_steps = 0

    def _plain_seconds(self, num_decoding: int) -> float:
        """What a step costs in which so many sequences decode and nothing else."""
        measured = self._probes or self._row_seconds
        return _median(measured) * (_FIXED_ROWS + num_decoding) if measured else 0.0


def _median(values: Collection[float]) -> float:
    """The upper one of two; importing `statistics` would cost a worker 5 ms of its start."""
    return sorted(values)[len(values) // 2]


def allowed_seconds(plain_seconds: float) -> float:
    """How long a step may take beside streams, whose step without a prompt takes `plain_seconds`."""
    return max(SMOOTH_SECONDS, min(STRETCH * plain_seconds, LONGEST_SECONDS), LEAST_STRETCH * plain_seconds)


def shares(prefilling: Iterable[Sequence], budget: int, token_seconds: float) -> Iterator[tuple[Sequence, int]]:
    """Which prompts get the budget, and how much of it: one after the other, since prompts that advance side by side
    all end when the last one would.

    The order is that of arrival plus `PATIENCE` times the time still needed: short ones overtake long ones, for the
    best mean time to the first token, but not for ever. A tenant's places go to its own prompts by priority.
    """

    def due(sequence: Sequence) -> float:
        return sequence.request.arrived_at + PATIENCE * token_seconds * sequence.num_due

    places = sorted(prefilling, key=due)
    queues: dict[str, deque[Sequence]] = {}
    for sequence in sorted(places, key=lambda each: each.request.priority):
        queues.setdefault(sequence.request.tenant, deque()).append(sequence)
    for place in places:
        if budget <= 0:
            return
        sequence = queues[place.request.tenant].popleft()
        count = min(sequence.num_due, budget)
        budget -= count
        yield sequence, count
