"""The store of models as protocols see it: models are pulled, made, copied and removed, if the server was told to let
them.

Knows no wire format. What a request may name is the business of shimmy/store.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from shimmy.core.errors import Busy, Draining, Forbidden, RequestTimeout, ShimmyError
from shimmy.core.modelfile import Recipe
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference

if TYPE_CHECKING:
    from shimmy.core.pulling import Progress

T = TypeVar("T")
MAX_PULLS = 4
_RETRY_SECONDS = 30
_PIECE_BYTES = 1 << 20
_LEAST_BYTES = 16 << 10


class StoreAccess:
    """Owns how many pulls there are, and that one model at a time has its weights written. What it changes is in the
    catalog when it says so."""

    # Of this process, whichever protocol they came by.
    _num_pulls = 0
    _is_rewriting = False

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._is_allowed = settings.allow_pull
        self._stall_seconds = settings.stall_seconds

    async def pull(self, name: str, revision: str | None = None) -> "AsyncGenerator[Progress, None]":
        """What happens, up to the status "success". Closing the generator cancels the pull; what has come is kept.
        Raises what it fails with, `Forbidden`, `Busy`, `Draining`."""
        self._check()
        from shimmy.pool.pull import pull, pull_argv

        with self._counted():
            async with aclosing(pull(pull_argv(name, revision), self._inference.closing)) as reported:
                async for each in reported:
                    if each.is_last:
                        await self._inference.models.refresh(max_age_seconds=0)
                    yield each

    async def copy(self, source: str, target: str) -> None:
        """Raises what `keeping.copy` does, and `Forbidden`."""
        self._check()
        from shimmy.models.keeping import copy, user_store

        await self._inference.models.refresh()
        await asyncio.to_thread(copy, user_store(os.environ), self._inference.models.catalog, source, target)
        await self._inference.models.refresh(max_age_seconds=0)

    async def make(self, recipe: Recipe) -> "AsyncGenerator[Progress, None]":
        """What happens, up to the status "success". Closing the generator gives it up: nothing is left then. Raises
        what `Making` does, what workers say of weights that are written anew, `Forbidden`, `Busy`, `Draining`."""
        self._check()
        from shimmy.core.pulling import SUCCESS, Progress
        from shimmy.models.keeping import user_store
        from shimmy.models.making import Making

        await self._inference.models.refresh()
        making = Making(user_store(os.environ), self._inference.models.catalog, recipe)
        halt = _Halt(self._inference.closing)
        with ExitStack() as limits:
            try:
                await halt.after(asyncio.to_thread(making.prepare))
                if making.rewriting is not None:
                    from shimmy.server.rewriting import rewrite

                    limits.enter_context(self._counted())
                    limits.enter_context(self._alone())
                    async with aclosing(rewrite(making.rewriting, self._inference.closing)) as reported:
                        async for each in reported:
                            yield each
                    yield Progress("verifying conversion")
                await halt.after(asyncio.to_thread(making.finish, halt.check))
            finally:
                # What is large takes its time to go.
                await asyncio.to_thread(making.close)
        yield Progress("writing manifest")
        await self._inference.models.refresh(max_age_seconds=0)
        yield Progress(SUCCESS)

    async def has_blob(self, digest: str) -> bool:
        """Raises `Forbidden`."""
        self._check()
        from shimmy.models.keeping import user_store

        return await asyncio.to_thread(user_store(os.environ).size, digest) is not None

    async def take_blob(self, digest: str, pieces: AsyncIterator[bytes]) -> None:
        """Raises `RequestError` where something else comes, `RequestTimeout` where hardly anything does, `StoreFailed`,
        `Forbidden`, `Busy`."""
        self._check()
        from shimmy.models.keeping import incoming_blob, user_store

        with self._counted():
            incoming = await asyncio.to_thread(incoming_blob, user_store(os.environ), digest)
            try:
                async for piece in _joined(pieces, self._stall_seconds):
                    await asyncio.to_thread(incoming.write, piece)
                await asyncio.to_thread(incoming.finish)
            finally:
                # What is large takes its time to go.
                await asyncio.to_thread(incoming.close)

    async def remove(self, name: str) -> None:
        """A model that requests use goes on until they are over. Raises what `keeping.remove` does, and `Forbidden`."""
        self._check()
        from shimmy.models.keeping import leaves_with, remove, user_store

        await self._inference.models.refresh()
        store, catalog = user_store(os.environ), self._inference.models.catalog
        with suppress(ShimmyError):
            if (id := await asyncio.to_thread(leaves_with, store, catalog, name)) is not None:
                await self._inference.models.unload(id)
        await asyncio.to_thread(remove, store, catalog, name)
        await self._inference.models.refresh(max_age_seconds=0)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """While a model comes. Raises `Busy`."""
        if StoreAccess._num_pulls >= MAX_PULLS:
            raise Busy(f"{MAX_PULLS} models are being pulled; try again later", retry_after_seconds=_RETRY_SECONDS)
        StoreAccess._num_pulls += 1
        try:
            yield
        finally:
            StoreAccess._num_pulls -= 1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While weights are written: that takes cores and a disk. Raises `Busy`."""
        if StoreAccess._is_rewriting:
            raise Busy("another model is being made; try again later", retry_after_seconds=_RETRY_SECONDS)
        StoreAccess._is_rewriting = True
        try:
            yield
        finally:
            StoreAccess._is_rewriting = False

    def _check(self) -> None:
        if not self._is_allowed:
            raise Forbidden(
                "this server does not change its models for requests; start it with --allow-pull, or use the commands "
                "shimmy pull, shimmy cp and shimmy rm"
            )


class _Halt:
    """For what goes on in a thread, which nobody can cancel: it is waited for, and asks itself whether to stop."""

    def __init__(self, closing: asyncio.Event) -> None:
        self._closing = closing
        self._is_cancelled = False

    def check(self) -> None:
        """Raises `Draining`."""
        if self._is_cancelled or self._closing.is_set():
            raise Draining("the server is shutting down; nothing was made")

    async def after(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns. Who is cancelled meanwhile is so once it has ended."""
        task = asyncio.create_task(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._is_cancelled = True
            await asyncio.gather(task, return_exceptions=True)
            raise


async def _joined(pieces: AsyncIterator[bytes], stall_seconds: float) -> AsyncIterator[bytes]:
    """Few large ones of many small ones. Raises `RequestTimeout` where less than 16 KiB come in so long: a byte now and
    then would keep a place for ever. The time in which nobody asks for any does not count."""
    joined = bytearray()
    now, left, num_came = asyncio.get_running_loop().time, stall_seconds, 0
    try:
        while True:
            began_at = now()
            async with asyncio.timeout(left):
                piece = await anext(pieces, None)
            left -= now() - began_at
            if piece is not None:
                joined += piece
                num_came += len(piece)
            if num_came >= _LEAST_BYTES:
                left, num_came = stall_seconds, 0
            if piece is None or len(joined) >= _PIECE_BYTES:
                yield bytes(joined)
                joined.clear()
            if piece is None:
                return
    except TimeoutError:
        raise RequestTimeout(f"nothing, or too little, of the blob came for {stall_seconds:g} s") from None
