"""The executable's Python modules as one file, which spec/start.py imports from.

Layout: the length of the index in four bytes (little-endian), the index, then the blobs. Everything is marshalled. The
index is a pair: by the name of each module its kind, offset, length and whether it is compressed (zlib), by the name of
each table its offset and length; offsets count from the end of the index. An extension module has its path inside the
program's folder for an offset. What every start needs is not compressed.
"""

import marshal
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "modules.bin"
NAMESPACE, MODULE, PACKAGE, EXTENSION = range(4)
_LENGTH_BYTES = 4


def write(
    target: Path,
    modules: Mapping[str, tuple[int, bytes]],
    extensions: Mapping[str, str],
    tables: Mapping[str, dict[Any, Any]],
    needed: set[str],
) -> None:
    """`modules` has each module's kind and marshalled code, `extensions` the path of each extension module, `needed`
    the names of what a start imports."""
    blobs = bytearray()

    def placed(blob: bytes) -> tuple[int, int]:
        blobs.extend(blob)
        return len(blobs) - len(blob), len(blob)

    found: dict[str, tuple[int, int | str, int, bool]] = {}
    for name, (kind, code) in sorted(modules.items(), key=lambda item: (item[0] not in needed, item[0])):
        found[name] = (kind, *placed(code if name in needed else zlib.compress(code, 9)), name not in needed)
    found |= {name: (EXTENSION, path, 0, False) for name, path in sorted(extensions.items())}
    index = dumped((found, {name: placed(dumped(table)) for name, table in sorted(tables.items())}))
    target.write_bytes(len(index).to_bytes(_LENGTH_BYTES, "little") + index + blobs)


def dumped(value: Any) -> bytes:
    """Marshalled, the same bytes each time: later formats tell what else refers to a part of it."""
    return marshal.dumps(value, 2)


class Image:
    """An image as written, to look into."""

    def __init__(self, content: bytes) -> None:
        start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        self._index, self._tables = marshal.loads(content[_LENGTH_BYTES:start])
        self._blobs = content[start:]

    @property
    def names(self) -> set[str]:
        return set(self._index)

    def code(self, name: str) -> bytes:
        """Marshalled; empty for a namespace package or an extension module."""
        kind, offset, length, packed = self._index[name]
        if kind == EXTENSION:
            return b""
        blob = self._blobs[offset : offset + length]
        return zlib.decompress(blob) if packed else blob

    def size(self, name: str) -> int:
        """What it takes in the image."""
        return 0 if self._index[name][0] == EXTENSION else int(self._index[name][2])

    def tables_size(self) -> int:
        return sum(length for _, length in self._tables.values())
