"""Packs the native libraries for the executable: one solid xz stream, as constants of two Python modules.

shimmy/worker/llama/payload.py is the other side. The CPU variants are nearly the same code, so one stream with a
dictionary over all of them is a third of what they are one by one.
"""

import hashlib
import lzma
import platform
import zlib
from pathlib import Path

from build import cache
from shimmy.worker.llama.payload import INDEX, STREAM

_X86 = ("x86_64", "amd64")
_DICTIONARY_BYTES = 32 << 20


def write(libraries: Path, folder: Path) -> None:
    """The two modules in `folder`, for all files of `libraries`."""
    contents = {path.name: path.read_bytes() for path in sorted(libraries.iterdir())}
    raw = b"".join(contents.values())
    files = {name: (len(content), zlib.crc32(content)) for name, content in contents.items()}
    identity = hashlib.sha256(repr(sorted(files)).encode() + raw).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{INDEX}.py").write_text(f"ID = {identity!r}\nFILES = {files!r}\n")
    (folder / f"{STREAM}.py").write_text(f"CONTENT = {packed(raw)!r}\n")


def packed(raw: bytes) -> bytes:
    """`raw` as an xz stream; kept in the build cache, because packing takes 15 s."""
    kept = cache.root() / "payloads" / hashlib.sha256(repr(_filters()).encode() + raw).hexdigest()[:16]
    if not kept.exists():
        cache.say("packing the native libraries")
        stream = lzma.compress(raw, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=_filters())
        kept.parent.mkdir(exist_ok=True)
        fresh = kept.with_name(f"{kept.name}.new")
        fresh.write_bytes(stream)
        fresh.replace(kept)
    return kept.read_bytes()


def _filters() -> list[dict[str, int]]:
    """The first one makes the targets of x86 jumps and calls absolute, so that equal ones look equal."""
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": _DICTIONARY_BYTES}
    return [{"id": lzma.FILTER_X86}, lzma2] if platform.machine().lower() in _X86 else [lzma2]
