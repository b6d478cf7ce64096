"""Finds calls in what a model writes. One file per family of models; `recognise` tells which is a model's own.

Knows neither tokens nor what clients call these things on the wire.
"""

from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.recognition import recognise

__all__ = ["Dialect", "recognise"]
