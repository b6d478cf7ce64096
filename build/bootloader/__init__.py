"""PyInstaller's bootloader, changed to extract once instead of at every start. README.md says how a spec uses it."""

from build.bootloader.identity import OPTION, stamp
from build.bootloader.make import bootloader

__all__ = ["OPTION", "bootloader", "stamp"]
