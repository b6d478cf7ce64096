"""The tensor table of a header: shapes and sizes, computed without overflow and compared with the file."""

from struct import Struct
from typing import NamedTuple

import msgspec

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.cursor import Cursor

MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = 63  # ggml.h GGML_MAX_NAME, less the terminator
MAX_DIMENSIONS = 4

_U32 = Struct("<I")
_U64 = Struct("<Q")
_TYPE_AND_OFFSET = Struct("<IQ")


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """`shape` as stored, fastest dimension first; `offset` in bytes from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: str
    num_elements: int
    size_bytes: int
    offset: int


def read_tensors(cursor: Cursor, count: int, alignment: int) -> list[Tensor]:
    if count > MAX_TENSORS:
        raise ModelInvalid(f"the header claims {count} tensors, the limit is {MAX_TENSORS}")
    tensors = [_read_tensor(cursor) for _ in range(count)]
    if len({tensor.name for tensor in tensors}) < count:
        raise ModelInvalid("two tensors have the same name")
    for tensor in tensors:
        if tensor.offset % alignment:
            raise ModelInvalid(f"tensor {tensor.name} lies at offset {tensor.offset}, not a multiple of {alignment}")
    return tensors


def check_extents(tensors: list[Tensor], data_offset: int, file_bytes: int) -> None:
    """Every tensor ends inside the file."""
    for tensor in tensors:
        end = data_offset + tensor.offset + tensor.size_bytes
        if end > file_bytes:
            raise ModelInvalid(f"truncated: tensor {tensor.name} ends at byte {end}, the file has {file_bytes}")


def _read_tensor(cursor: Cursor) -> Tensor:
    name = cursor.text("a tensor name", MAX_NAME_BYTES)
    (num_dimensions,) = cursor.unpack(_U32)
    if num_dimensions > MAX_DIMENSIONS:
        raise ModelInvalid(f"tensor {name} claims {num_dimensions} dimensions, the limit is {MAX_DIMENSIONS}")
    shape = tuple(cursor.unpack(_U64)[0] for _ in range(num_dimensions)) or (1,)
    code, offset = cursor.unpack(_TYPE_AND_OFFSET)
    if code not in TENSOR_TYPES:
        raise ModelInvalid(f"tensor {name} has the unknown type {code}")
    kind = TENSOR_TYPES[code]
    num_elements = 1
    for extent in shape:
        num_elements *= extent
    if not num_elements or shape[0] % kind.block_elements:
        raise ModelInvalid(f"tensor {name} of type {kind.name} cannot have the shape {shape}")
    size_bytes = num_elements // kind.block_elements * kind.block_bytes
    return Tensor(name, shape, kind.name, num_elements, size_bytes, offset)


class TensorType(NamedTuple):
    name: str
    block_elements: int
    block_bytes: int


# ggml.h enum ggml_type, ggml.c type_traits; the missing numbers were withdrawn.
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 40),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}
