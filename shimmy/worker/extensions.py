"""Makes those extension modules importable that the frozen program carries with its native libraries, because only
workers need them. It knows neither what they do nor where they are unpacked to."""

import sys
from _frozen_importlib import ModuleSpec
from importlib.machinery import ExtensionFileLoader
from typing import Any


class Finder:
    """To be asked last: what is there in the usual way needs nothing of this."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        from shimmy.worker.llama import payload

        file = payload.extensions().get(name)
        if file is None:
            return None
        origin = str(payload.carried().find(file))
        return ModuleSpec(name, ExtensionFileLoader(name, origin), origin=origin)


def install() -> None:
    """Does nothing in a checkout, where they are installed like any other."""
    if getattr(sys, "frozen", False):
        sys.meta_path.append(Finder)
