"""Writes GGUF files, sound ones and, where a test says so, unsound ones. Shares no code with the reader."""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9}
CODES |= {"u64": 10, "i64": 11, "f64": 12}
LAYOUTS = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?"}
LAYOUTS |= {"u64": "Q", "i64": "q", "f64": "d"}
BYTE, NORMAL = 6, 1


@dataclass
class Typed:
    """A value with its type spelled out. For type "arr", `element` is the type of the elements."""

    type: str
    value: Any
    element: str = "u8"
    claimed_length: int | None = None


@dataclass
class TensorSpec:
    name: str
    shape: tuple[int, ...]
    type_code: int = 0
    size_bytes: int | None = None
    offset: int | None = None

    def num_bytes(self) -> int:
        if self.size_bytes is not None:
            return self.size_bytes
        product = 4
        for extent in self.shape:
            product *= extent
        return product


@dataclass
class GGUF:
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: list[TensorSpec] = field(default_factory=list)
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    claimed_keys: int | None = None
    claimed_tensors: int | None = None

    def header(self) -> bytes:
        keys = len(self.metadata) if self.claimed_keys is None else self.claimed_keys
        tensors = len(self.tensors) if self.claimed_tensors is None else self.claimed_tensors
        parts = [self.magic, struct.pack("<IQQ", self.version, tensors, keys)]
        for key, value in self.metadata.items():
            parts += [text(key), typed(value)]
        offset = 0
        for tensor in self.tensors:
            at = offset if tensor.offset is None else tensor.offset
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            parts += [text(tensor.name), shape, struct.pack("<IQ", tensor.type_code, at)]
            offset += padded(tensor.num_bytes(), self.alignment)
        return b"".join(parts)

    def encode(self) -> bytes:
        header = self.header()
        data = b"".join(bytes(padded(tensor.num_bytes(), self.alignment)) for tensor in self.tensors)
        return header.ljust(padded(len(header), self.alignment), b"\0") + data if data else header

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.encode())
        return path


def padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def typed(value: Any) -> bytes:
    value = value if isinstance(value, Typed) else infer(value)
    code = struct.pack("<I", CODES[value.type])
    if value.type != "arr":
        return code + scalar(value.type, value.value)
    length = len(value.value) if value.claimed_length is None else value.claimed_length
    elements = b"".join(scalar(value.element, each) for each in value.value)
    return code + struct.pack("<IQ", CODES[value.element], length) + elements


def infer(value: Any) -> Typed:
    if isinstance(value, list):
        return Typed("arr", value, infer(value[0]).type if value else "i32")
    types = {bool: "bool", int: "i32" if isinstance(value, int) and value < 0 else "u32", float: "f32"}
    return Typed(types.get(type(value), "str"), value)


def scalar(type_name: str, value: Any) -> bytes:
    if type_name == "arr":
        return typed(value)
    return text(value) if type_name == "str" else struct.pack("<" + LAYOUTS[type_name], value)


def model(name: str = "Tiny", **metadata: Any) -> GGUF:
    """A sound model of the smallest kind: 260 tokens, two tensors. Keywords add keys, `__` stands for a dot."""
    tokens = ["<unk>", "<s>", "</s>", " "] + [f"<0x{byte:02X}>" for byte in range(256)]
    known: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": name,
        "llama.block_count": 2,
        "llama.context_length": 4096,
        "llama.embedding_length": 8,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": Typed("arr", [NORMAL] * 4 + [BYTE] * 256, "i32"),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    known |= {key.replace("__", "."): value for key, value in metadata.items()}
    tensors = [TensorSpec("token_embd.weight", (8, len(tokens))), TensorSpec("output_norm.weight", (8,))]
    return GGUF({key: value for key, value in known.items() if value is not None}, tensors)
