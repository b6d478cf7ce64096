"""The executable's Python modules as two files, which spec/start.py imports from: what a start needs, and the rest.

The first one is unpacked with the interpreter. Its layout: the length of the index in four bytes (little-endian), the
index, then the blobs. Everything is marshalled. The index is a pair: by the name of each module its kind, offset,
length and whether it is among the rest, by the name of each table its offset and length; offsets count from the end of
the index. An extension module has its path inside the program's folder for an offset, or none where the native
libraries have it (build/payload.py).

The rest stays in the executable. It has compressed blobs (zlib) and nothing else; their offsets count from where
PyInstaller's bootloader expects an archive of modules, and what is before them there is the `rest_start`.
"""

import marshal
import zlib
from collections.abc import Mapping
from typing import Any

NAME = "modules.bin"
NAMESPACE, MODULE, PACKAGE, EXTENSION = range(4)
_LENGTH_BYTES = 4


def made(
    modules: Mapping[str, tuple[int, bytes]],
    extensions: Mapping[str, str],
    tables: Mapping[str, dict[Any, Any]],
    needed: set[str],
    rest_start: int = 0,
) -> tuple[bytes, bytes]:
    """The two files. `modules` has each module's kind and marshalled code, `extensions` the path of each extension
    module, `needed` the names of what a start imports."""
    blobs, rest = bytearray(), bytearray()

    def placed(blob: bytes) -> tuple[int, int]:
        blobs.extend(blob)
        return len(blobs) - len(blob), len(blob)

    found: dict[str, tuple[int, int | str, int, bool]] = {}
    for name, (kind, code) in sorted(modules.items()):
        if name in needed or not code:
            found[name] = (kind, *placed(code), False)
        else:
            blob = zlib.compress(code, 9)
            found[name] = (kind, rest_start + len(rest), len(blob), True)
            rest.extend(blob)
    found |= {name: (EXTENSION, path, 0, False) for name, path in sorted(extensions.items())}
    index = dumped((found, {name: placed(dumped(table)) for name, table in sorted(tables.items())}))
    return len(index).to_bytes(_LENGTH_BYTES, "little") + index + blobs, bytes(rest)


def dumped(value: Any) -> bytes:
    """Marshalled, the same bytes each time: later formats tell what else refers to a part of it."""
    return marshal.dumps(value, 2)


class Image:
    """An image as made, to look into; `archive` is what stands where the bootloader expects one."""

    def __init__(self, content: bytes, archive: bytes) -> None:
        start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
        self._index, self._tables = marshal.loads(content[_LENGTH_BYTES:start])
        self._blobs = content[start:]
        self._archive = archive

    @property
    def names(self) -> set[str]:
        return set(self._index)

    def code(self, name: str) -> bytes:
        """Marshalled; empty for a namespace package or an extension module."""
        kind, offset, length, is_rest = self._index[name]
        if kind == EXTENSION:
            return b""
        place = slice(offset, offset + length)
        return zlib.decompress(self._archive[place]) if is_rest else self._blobs[place]

    def size(self, name: str) -> int:
        """What it takes in its file."""
        return 0 if self._index[name][0] == EXTENSION else int(self._index[name][2])

    def is_rest(self, name: str) -> bool:
        return bool(self._index[name][3])
