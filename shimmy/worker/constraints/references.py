"""What references within a JSON schema lead to, and new ones."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import unquote

from shimmy.core.errors import RequestError

# Python makes no number of thousands of digits.
_INDEX = re.compile(r"[0-9]{1,6}")


class References:
    """Of one schema; the anchors are those that it had when this was made."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._anchors = dict(_anchors(root))

    def target(self, reference: str) -> Any:
        """Raises `RequestError` where there is nothing."""
        if reference in self._anchors:
            return self._anchors[reference]
        target: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and _INDEX.fullmatch(step) and int(step) < len(target):
                target = target[int(step)]
            elif isinstance(target, dict) and step in target:
                target = target[step]
            else:
                raise RequestError(f"$ref: there is no {reference[:100]!r} in the schema")
        return target

    def define(self, schema: dict[str, Any]) -> dict[str, str]:
        """A schema that stands for this one, wherever it is used."""
        definitions = self._root.setdefault("$defs", {})
        name = next(name for number in count(len(definitions)) if (name := f"shared-{number}") not in definitions)
        definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}


def _anchors(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$anchor"), str):
            yield "#" + schema["$anchor"], schema
        for each in schema.values():
            yield from _anchors(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _anchors(each)
