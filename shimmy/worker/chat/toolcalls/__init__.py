"""Finds calls in what a model writes. One file per family of models; `recognise` tells which is a model's own.

Knows neither tokens nor what clients call these things on the wire.
"""

from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.hermes import DESCRIBED, HERMES

__all__ = ["Dialect", "recognise"]


def recognise(template: str | None) -> Dialect:
    """The dialect of the model with this chat template. For a template that has no tools, and for None, it is one that
    has instructions for the model."""
    if template and "<tool_call>" in template:
        return HERMES
    return DESCRIBED
