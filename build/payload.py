"""Packs the native libraries for the executable: one solid xz stream, and a Python module that says what is in it.

shimmy/worker/llama/payload.py is the other side. The CPU variants are nearly the same code, so one stream with a
dictionary over all of them is a third of what they are one by one. Extension modules that no start needs are in it,
too, so that the first one need not put them anywhere.
"""

import hashlib
import importlib
import importlib.util
import lzma
import platform
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

from build import cache, elf
from shimmy.worker.llama.payload import INDEX

STREAM = "native.xz"
# Only workers need these. The last one is what the one before asks for, in C, where PyInstaller cannot see it.
EXTENSIONS = ["minijinja._lowlevel", "llguidance._lib", "nacl._sodium", "_cffi_backend"]
# For what hardly anybody asks for, such as host names beyond ASCII. Not every Python has a file for each.
SELDOM_USED = ["unicodedata", "_decimal", "_csv", "_multiprocessing", "_posixshmem", "mmap", "termios"]
# Speaks TLS, through two libraries that are larger than all else of a start; for servers that have a certificate.
TLS = "_ssl"
_OPENSSL = ("libcrypto.so", "libssl.so")

_X86 = ("x86_64", "amd64")
_DICTIONARY_BYTES = 32 << 20


def write(libraries: Path, folder: Path) -> None:
    """The module and the stream in `folder`, for all files of `libraries` and all extension modules."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = extensions()
    contents = {path.name: path.read_bytes() for path in sorted(libraries.iterdir())}
    extension_files = {name: name + path.suffix for name, path in modules.items()}
    contents |= {extension_files[name]: cleaned(path, folder / "stripped") for name, path in modules.items()}
    openssl = {path.name: path.read_bytes() for path in openssl_libraries()} if TLS in modules else {}
    if TLS in modules:
        # Last, with what it needs: nobody else has to read so far.
        contents[extension_files[TLS]] = contents.pop(extension_files[TLS])
    index = pack(contents | openssl, folder / STREAM)
    index |= {
        "EXTENSIONS": extension_files,
        "NEEDED": {TLS: list(openssl)} if openssl else {},
        "SELDOM": [extension_files[TLS], *openssl] if TLS in modules else [],
    }
    (folder / f"{INDEX}.py").write_text("".join(f"{name} = {value!r}\n" for name, value in index.items()))


def pack(contents: Mapping[str, bytes], target: Path) -> dict[str, object]:
    """Writes the stream; returns what `Payload` needs to know of it."""
    raw = b"".join(contents.values())
    files = {name: (len(content), zlib.crc32(content)) for name, content in contents.items()}
    identity = hashlib.sha256(repr(sorted(files)).encode() + raw).hexdigest()[:16]
    stream = packed(raw)
    target.write_bytes(stream)
    return {"ID": identity, "FILES": files, "STREAM_BYTES": len(stream)}


def extensions() -> dict[str, Path]:
    """Those that go into the stream, by name. Raises `FileNotFoundError` for one that has to be there."""
    carried = [*EXTENSIONS, *SELDOM_USED, *([TLS] if has_tls() else [])]
    found = {name: path for name in carried if (path := extension(name))}
    for name in EXTENSIONS:
        if name not in found:
            raise FileNotFoundError(f"the extension module {name} is not installed")
    return found


def has_tls() -> bool:
    """Whether the executable speaks TLS: where the libraries for it can be carried along."""
    return sys.platform == "linux" and extension(TLS) is not None


def openssl_libraries() -> list[Path]:
    """Those that this interpreter uses, each after what it needs; none where OpenSSL is a part of it."""
    importlib.import_module(TLS)
    mapped = {Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted((path for path in mapped if path.name.startswith(_OPENSSL)), key=lambda path: path.name)


def extension(name: str) -> Path | None:
    """Its file; None where there is none, because it is a part of the interpreter or not for this platform."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def cleaned(module: Path, target: Path) -> bytes:
    """An extension module without symbols and the build machine's folders, as PyInstaller and the recipe leave those
    that are not in the stream. Only Linux has a strip that does no harm."""
    content = module.read_bytes()
    if sys.platform == "linux" and (strip := shutil.which("strip")):
        subprocess.run([strip, "-o", target, module], check=True)
        content = target.read_bytes()
        target.unlink()
    return elf.without_search_path(content) or content


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
