"""How much structure the JSON of one request may have. Decoding takes time for each value, however small, and nothing
else runs meanwhile; a text of the same size takes next to none.
"""

from collections.abc import Iterator

from shimmy.core.errors import TooLarge

MAX_CONTAINERS = 100_000
MAX_VALUES = 1_000_000
# That a decoder reads; it gives up at some depth below Python's own limit.
SURE_DEPTH = 500
_PIECE_BYTES = 256 << 10


def check_structure(content: bytes) -> None:
    """Raises `TooLarge` for more objects and arrays, or more values, than any request needs."""
    # Each takes two bytes at least, so most bodies are done here; others by what stands inside of strings, too.
    if len(content) <= 2 * MAX_CONTAINERS or not _is_over(*_counts(content)):
        return
    num_containers = num_commas = 0
    for piece in outside_strings(content):
        more = _counts(piece)
        num_containers, num_commas = num_containers + more[0], num_commas + more[1]
        if over := _is_over(num_containers, num_commas):
            raise TooLarge(f"the request's body has more than {over}")


def outside_strings(content: bytes) -> Iterator[bytes]:
    """What of a JSON text is not inside of strings, piece by piece."""
    plain = content.replace(b"\\\\", b"").replace(b'\\"', b"")
    is_inside = 0
    for start in range(0, len(plain), _PIECE_BYTES):
        parts = plain[start : start + _PIECE_BYTES].split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside = (is_inside + len(parts) - 1) % 2


def _counts(content: bytes) -> tuple[int, int]:
    return content.count(b"{") + content.count(b"["), content.count(b",")


def _is_over(num_containers: int, num_commas: int) -> str:
    if num_containers > MAX_CONTAINERS:
        return f"{MAX_CONTAINERS} objects and arrays"
    return f"{MAX_VALUES} values" if num_commas > MAX_VALUES else ""
