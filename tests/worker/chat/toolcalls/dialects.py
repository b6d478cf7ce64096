"""Every dialect that a template can have, found as a worker finds it."""

from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.recognition import _SIGNS, recognise

_TEMPLATES = [*("".join(signs) for signs, _ in _SIGNS), "HYTK = ':opensource'"]


def every_dialect() -> list[Dialect]:
    """Each one once."""
    found = [recognise(template) for template in _TEMPLATES]
    return list({dialect.name: dialect for dialect in found}.values())
