"""Reads just enough of an ELF file to take the search path (DT_RPATH, DT_RUNPATH) out of it; see elf(5)."""

import struct
from collections.abc import Iterator

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_STRTAB, _DT_RPATH, _DT_DEBUG, _DT_RUNPATH = 0, 5, 15, 21, 29
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")


def without_search_path(content: bytes) -> bytes | None:
    """The file with entries that name absolute folders made into DT_DEBUG, which means nothing in a library; None when
    there are none, or it is no ELF file. `$ORIGIN`, the library's own folder, is kept."""
    patched = bytearray(content)
    for position, tag, value in _dynamic(content):
        if tag in (_DT_RPATH, _DT_RUNPATH):
            start = _string_table(content) + value
            folders = content[start : content.index(0, start)]
            if not all(folder.startswith(b"$ORIGIN") for folder in folders.split(b":")):
                _DYNAMIC.pack_into(patched, position, _DT_DEBUG, 0)
    return bytes(patched) if patched != content else None


def search_paths(content: bytes) -> list[str]:
    """What the dynamic section says, e.g. ["$ORIGIN:/usr/local/lib"]."""
    found = [value for _, tag, value in _dynamic(content) if tag in (_DT_RPATH, _DT_RUNPATH)]
    starts = [_string_table(content) + value for value in found]
    return [content[start : content.index(0, start)].decode() for start in starts]


def _dynamic(content: bytes) -> Iterator[tuple[int, int, int]]:
    """The offset, tag and value of each entry."""
    for kind, offset, _, size in _segments(content):
        if kind == _PT_DYNAMIC:
            for position in range(offset, offset + size, _DYNAMIC.size):
                tag, value = _DYNAMIC.unpack_from(content, position)
                if tag == _DT_NULL:
                    return
                yield position, tag, value


def _string_table(content: bytes) -> int:
    """Its offset in the file; the dynamic section has its address in memory."""
    address = next(value for _, tag, value in _dynamic(content) if tag == _DT_STRTAB)
    segments = (segment for segment in _segments(content) if segment[0] == _PT_LOAD)
    return next(offset + address - start for _, offset, start, size in segments if start <= address < start + size)


def _segments(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, offset in the file, address in memory, and size in the file."""
    if not content.startswith(_MAGIC):
        return
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for index in range(count):
        kind, _, offset, address, _, length, _, _ = _PROGRAM_HEADER.unpack_from(content, table + index * size)
        yield kind, offset, address, length
