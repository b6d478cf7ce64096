"""The engine of the server without the server, for the subcommands that use a model themselves."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from shimmy.cli.progress import LoadingBar

if TYPE_CHECKING:
    from shimmy.core.settings import Settings
    from shimmy.server.inference import Inference


@asynccontextmanager
async def engine(settings: "Settings") -> "AsyncGenerator[Inference, None]":
    """Loading shows on the terminal; the workers end with the block."""
    import logging

    from shimmy.server.assembly import build_engine

    # What fails ends the command, with a message of its own; how a server would mend it is of no use here.
    log = logging.getLogger("shimmy")
    level = log.level
    log.setLevel(logging.CRITICAL)
    bar = LoadingBar()
    inference = build_engine(settings, bar)
    try:
        yield inference
    finally:
        bar.clear()
        await inference.close()
        log.setLevel(level)
