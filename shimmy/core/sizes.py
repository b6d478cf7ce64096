"""Numbers as people read them."""

from collections.abc import Callable


def parameter_size(num_parameters: int) -> str:
    """As Ollama has it: 134.52M, 8.0B."""
    for unit, digits, letter in ((10**12, 1, "T"), (10**9, 1, "B"), (10**6, 2, "M"), (10**3, 0, "K")):
        if num_parameters >= unit:
            return f"{num_parameters / unit:.{digits}f}{letter}"
    return str(num_parameters)


def binary_size(num_bytes: int) -> str:
    """As memory is counted: 512 MiB, 1.5 GiB. Rounded up, since that much is taken."""
    return _binary(num_bytes, lambda number, unit: -(-number // unit))


def free_size(num_bytes: int) -> str:
    """The same of what is free: rounded down, so that it never reads like as much as what did not fit."""
    return _binary(num_bytes, int.__floordiv__)


def _binary(num_bytes: int, divided: Callable[[int, int], int]) -> str:
    if num_bytes >= 1 << 30:
        return f"{divided(num_bytes * 10, 1 << 30) / 10:.1f} GiB"
    return f"{divided(num_bytes, 1 << 20)} MiB"
