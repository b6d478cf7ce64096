"""What references within a JSON schema lead to, and new ones.

Schemas are known by their identity, so that what is only data, or a list of schemas, is not taken for one.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import unquote

from shimmy.core.errors import RequestError

# Python makes no number of thousands of digits.
_INDEX = re.compile(r"[0-9]{1,6}")
_DEFINITION = re.compile(r"#(?:[^/].*|/(?:\$defs|definitions)/[^/]*)?", re.DOTALL)


class References:
    """Of one schema, and all `schemas` that are in it; the anchors are those that it had when this was made."""

    def __init__(self, root: dict[str, Any], schemas: Iterable[dict[str, Any]]) -> None:
        self._root = root
        self._schemas = {id(each): each for each in schemas}
        self._anchors = {f"#{each['$anchor']}": each for each in self._schemas.values() if "$anchor" in each}
        self._numbers = count(len(root.get("$defs", ())))

    def target(self, reference: str) -> Any:
        """Raises `RequestError` where there is nothing."""
        if reference in self._anchors:
            return self._anchors[reference]
        return self._place(reference)[-1]

    def settle(self) -> None:
        """Gives a definition to what is referred to by the place where it stands, which may be moved then."""
        if len(self._anchors) < sum("$anchor" in each for each in self._schemas.values()):
            raise RequestError("$anchor: two schemas have the same")
        referring = [each for each in self._schemas.values() if "$ref" in each]
        places: dict[str, tuple[Any, Any, Any]] = {}
        for reference in dict.fromkeys(each["$ref"] for each in referring if _is_within(each["$ref"])):
            # What is nowhere may be in what nothing uses.
            with suppress(RequestError):
                places[reference] = self._place(reference)
        by_target: dict[int, dict[str, str]] = {}
        for container, step, target in places.values():
            if id(target) not in by_target:
                by_target[id(target)] = self.define(target)
            container[step] = dict(by_target[id(target)])
        for each in referring:
            if each["$ref"] in places:
                each |= by_target[id(places[each["$ref"]][-1])]

    def define(self, schema: Any) -> dict[str, str]:
        """A schema that stands for this one, wherever it is used."""
        definitions = self._root.setdefault("$defs", {})
        name = next(name for number in self._numbers if (name := f"shared-{number}") not in definitions)
        definitions[name] = schema
        if isinstance(schema, dict):
            self._schemas[id(schema)] = schema
        return {"$ref": f"#/$defs/{name}"}

    def _place(self, reference: str) -> tuple[Any, Any, Any]:
        """What the schema is in, at which step, and itself."""
        container: Any = None
        step: Any = None
        target: Any = self._root
        for name in reference.removeprefix("#").split("/")[1:]:
            container, step = target, unquote(name).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and _INDEX.fullmatch(step) and int(step) < len(target):
                step = int(step)
            elif not isinstance(target, dict) or step not in target:
                raise RequestError(f"$ref: there is no {reference[:100]!r} in the schema")
            target = target[step]
        if not isinstance(target, bool) and id(target) not in self._schemas:
            raise RequestError(f"$ref: {reference[:100]!r} is no schema")
        return container, step, target


def _is_within(reference: str) -> bool:
    """Whether it leads to neither the whole, nor an anchor, nor a definition."""
    return not _DEFINITION.fullmatch(reference)
