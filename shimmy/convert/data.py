"""The data of tensors on its way from one file to the other, in pieces: as it is, with rows in another order, or as
32-bit floats. No tensor is ever in memory as a whole."""

import struct
from collections.abc import Callable, Iterator

import msgspec

from shimmy.convert.gguf import Entry
from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.files import regular_file
from shimmy.models.safetensors import ELEMENT_BYTES, Tensor

_PIECE_BYTES = 4 << 20


class Source(msgspec.Struct, frozen=True):
    """A tensor in its shard."""

    path: str
    tensor: Tensor


class Planned(msgspec.Struct, frozen=True):
    """A tensor of the new file, and what gives its bytes in order. `pieces` raises `ModelInvalid`."""

    entry: Entry
    pieces: Callable[[], Iterator[bytes]]


def planned(name: str, source: Source, *, widen: bool, plus: float = 0.0, num_heads: int | None = None) -> Planned:
    """`widen` makes 32-bit floats of it, each with `plus` added. With `num_heads` the rows are those of queries or
    keys, and come in the order in which llama.cpp rotates them. Raises `ModelInvalid`."""
    tensor = source.tensor
    if num_heads is not None and tensor.shape[0] % (2 * num_heads):
        raise ModelInvalid(f"tensor {tensor.name} has {tensor.shape[0]} rows for {num_heads} heads")
    is_widened = widen and (tensor.type != "F32" or plus != 0.0)

    def pieces() -> Iterator[bytes]:
        found = _as_they_lie(source) if num_heads is None else _interleaved(source, num_heads)
        return (_widened(piece, tensor.type, plus) for piece in found) if is_widened else found

    return Planned(Entry(name, tensor.shape, "F32" if widen else tensor.type), pieces)


def literal(name: str, values: list[float]) -> Planned:
    return Planned(Entry(name, (len(values),), "F32"), lambda: iter([struct.pack(f"<{len(values)}f", *values)]))


def _as_they_lie(source: Source) -> Iterator[bytes]:
    return _read(source, _PIECE_BYTES)


def _interleaved(source: Source, num_heads: int) -> Iterator[bytes]:
    """transformers rotates the first half of a head's rows with the second, llama.cpp each even row with the next."""
    tensor = source.tensor
    head_bytes = tensor.size_bytes // num_heads
    row_bytes = tensor.size_bytes // tensor.shape[0]
    for head in _read(source, head_bytes):
        half = head_bytes // 2
        rows = range(0, half, row_bytes)
        yield b"".join(head[at : at + row_bytes] + head[half + at : half + at + row_bytes] for at in rows)


def _read(source: Source, piece_bytes: int) -> Iterator[bytes]:
    tensor = source.tensor
    with regular_file(source.path) as (file, _):
        file.seek(tensor.offset)
        left = tensor.size_bytes
        while left:
            piece = file.read(min(left, piece_bytes))
            if len(piece) < min(left, piece_bytes):
                raise ModelInvalid(f"{source.path} became shorter while it was read")
            left -= len(piece)
            yield piece


def _widened(piece: bytes, kind: str, plus: float) -> bytes:
    count = len(piece) // ELEMENT_BYTES[kind]
    if kind == "BF16":
        # The upper half of the same number in 32 bits.
        wide = bytearray(4 * count)
        wide[2::4], wide[3::4] = piece[0::2], piece[1::2]
        piece, kind = bytes(wide), "F32"
    if kind == "F32" and not plus:
        return piece
    values = struct.unpack(f"<{count}{'e' if kind == 'F16' else 'f'}", piece)
    return struct.pack(f"<{count}f", *(value + plus for value in values))
