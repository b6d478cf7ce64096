"""`python -m build.bootloader`: make sure that the bootloader is compiled, and print where it is."""

import sys

from build.bootloader.make import bootloader

if __name__ == "__main__":
    try:
        print(bootloader())
    except KeyboardInterrupt:
        sys.exit("shimmy build: interrupted; the next run starts again")
