"""How far ahead guesses are worth computing: how often they were right, and what a further row of a batch costs."""

import math

# What came lately counts: about so many tokens. The first rate is worth fewer.
_MEMORY_TOKENS = 10
_FIRST_RATE, _FIRST_TOKENS = 0.7, 3
# No run of right guesses makes the next ones certain.
_HIGHEST_RATE = 0.99
_MEMORY_STEPS = 40
# The fixed part of a step is worth about as many rows (`python -m bench.chunks`): a guess, which counts as much as so
# many steps whose rows differ by one.
_FIXED_ROWS, _GUESS_STEPS = 2, 4
_LEAST_ROW = 0.02
# What other programs do to a step says nothing about its rows.
_FAR_TOO_LONG = 2.0


class Acceptance:
    """One sequence's `rate`: the chance that a guess is right where all before it were."""

    def __init__(self) -> None:
        self.rate = _FIRST_RATE
        self._num_tokens = _FIRST_TOKENS

    def observe(self, num_right: int, *, then_wrong: bool) -> None:
        for is_right in [1] * num_right + [0] * then_wrong:
            self._num_tokens = min(self._num_tokens + 1, _MEMORY_TOKENS)
            self.rate += (is_right - self.rate) / self._num_tokens

    def length(self, least: float) -> int:
        """How many guesses in a row will all be right with a chance of at least `least`."""
        if self.rate < least:
            return 0
        return int(math.log(least) / math.log(min(self.rate, _HIGHEST_RATE)))


class RowCosts:
    """What a step costs: a line through what steps of different numbers of rows took lately."""

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def observe(self, num_rows: int, seconds: float) -> None:
        if self._weight:
            seconds = min(seconds, _FAR_TOO_LONG * self.seconds(num_rows))
        keep = 1 - 1 / _MEMORY_STEPS
        self._weight = self._weight * keep + 1
        self._rows = self._rows * keep + num_rows
        self._seconds = self._seconds * keep + seconds
        self._squares = self._squares * keep + num_rows * num_rows
        self._products = self._products * keep + num_rows * seconds

    def seconds(self, num_rows: int) -> float:
        """Of a step with so many rows; only ratios mean something before the first was observed."""
        fixed, row = self._line()
        return fixed + num_rows * row

    def least_chance(self, num_sequences: int, token_seconds: float) -> float:
        """Above which chance a guess is worth a row in a step in which so many sequences decode, when it takes
        `token_seconds` to make it: a right one then costs no more than a token without any."""
        return (self._line()[1] + token_seconds) / (self.seconds(num_sequences) / num_sequences)

    def _line(self) -> tuple[float, float]:
        """The fixed part, and what a row costs."""
        if not self._weight:
            return float(_FIXED_ROWS), 1.0
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        variance = max(0.0, self._squares - self._weight * rows * rows)
        covariance = self._products - self._weight * rows * seconds
        guess = seconds / (_FIXED_ROWS + rows)
        row = (covariance + _GUESS_STEPS * guess) / (variance + _GUESS_STEPS)
        row = min(max(row, _LEAST_ROW * seconds / rows), seconds / rows)
        return seconds - rows * row, row
