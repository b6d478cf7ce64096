"""The store of models as protocols see it: models are pulled, copied and removed, if the server was told to let them.

Knows no wire format. What a request may name is the business of shimmy/store.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from shimmy.core.errors import Busy, Forbidden, ShimmyError
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference

if TYPE_CHECKING:
    from shimmy.core.pulling import Progress

MAX_PULLS = 4
_RETRY_SECONDS = 30


class StoreAccess:
    """Owns how many pulls there are. What it changes is in the catalog when it says so."""

    # Of this process, whichever protocol they came by.
    _num_pulls = 0

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._is_allowed = settings.allow_pull

    async def pull(self, name: str, revision: str | None = None) -> "AsyncGenerator[Progress, None]":
        """What happens, up to the status "success". Closing the generator cancels the pull; what has come is kept.
        Raises what it fails with, `Forbidden`, `Busy`, `Draining`."""
        self._check()
        from shimmy.pool.pull import pull, pull_argv

        if StoreAccess._num_pulls >= MAX_PULLS:
            raise Busy(f"{MAX_PULLS} models are being pulled; try again later", retry_after_seconds=_RETRY_SECONDS)
        StoreAccess._num_pulls += 1
        try:
            async with aclosing(pull(pull_argv(name, revision), self._inference.closing)) as reported:
                async for each in reported:
                    if each.is_last:
                        await self._inference.refresh(max_age_seconds=0)
                    yield each
        finally:
            StoreAccess._num_pulls -= 1

    async def copy(self, source: str, target: str) -> None:
        """Raises what `keeping.copy` does, and `Forbidden`."""
        self._check()
        from shimmy.models.keeping import copy, user_store

        await self._inference.refresh()
        await asyncio.to_thread(copy, user_store(os.environ), self._inference.catalog, source, target)
        await self._inference.refresh(max_age_seconds=0)

    async def remove(self, name: str) -> None:
        """A model that requests use goes on until they are over. Raises what `keeping.remove` does, and `Forbidden`."""
        self._check()
        from shimmy.models.keeping import remove, user_store

        await self._inference.refresh()
        with suppress(ShimmyError):
            await self._inference.unload(name)
        await asyncio.to_thread(remove, user_store(os.environ), self._inference.catalog, name)
        await self._inference.refresh(max_age_seconds=0)

    def _check(self) -> None:
        if not self._is_allowed:
            raise Forbidden(
                "this server does not change its models for requests; start it with --allow-pull, or use the commands "
                "shimmy pull, shimmy cp and shimmy rm"
            )
