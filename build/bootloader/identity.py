"""What the bootloader must know of the finished executable: the name of its cache directory, and a checksum.

Both depend on every byte of the file, so they are written into it when it is complete.
"""

import hashlib
import shutil
import sys
import zlib
from pathlib import Path

# Below the user's cache folder. The bootloader removes what it finds there and considers old.
FOLDER = "shimmy/start"
_UNKNOWN = "@" * 32
# An entry for the spec's EXE(...). An executable without its stamp() is refused as damaged.
OPTION = (f"pyi-cache-id {FOLDER}/{_UNKNOWN}", None, "OPTION")


def stamp(executable: Path) -> str:
    """Write its id into `executable`, and after everything the CRC-32 of it all, big-endian. Returns the id."""
    contents = executable.read_bytes()
    unknown = f"{FOLDER}/{_UNKNOWN}".encode()
    if contents.count(unknown) != 1:
        sys.exit(f"shimmy build: {executable} was not built with the option {OPTION[0]}, or is stamped already")
    identity = hashlib.sha256(contents).hexdigest()[: len(_UNKNOWN)]
    contents = contents.replace(unknown, f"{FOLDER}/{identity}".encode())
    stamped = executable.with_name(f".{executable.name}.stamped")
    stamped.write_bytes(contents + zlib.crc32(contents).to_bytes(4, "big"))
    shutil.copymode(executable, stamped)
    stamped.replace(executable)
    return identity
