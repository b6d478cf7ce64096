"""A server over fake workers for one test, wherever it runs: in the test's own event loop, or, when SHIMMY_EXE names a
program, that program as a process. Tests of the wire take it from here and do not know the difference."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from shimmy.core.keys import ApiKey
from shimmy.core.settings import Settings
from shimmy.models.listing import Model
from tests.program import IS_NAMED, require_mark
from tests.server.client import Answer, Client, Live, chat_body
from tests.server.inside import Inside, serve_inside
from tests.server.outside import serve_outside

__all__ = ["Answer", "Client", "Inside", "Live", "chat_body", "run_inside", "run_live", "with_settings"]

SETTINGS = Settings(bind="127.0.0.1:0")
# Less than pytest waits. A process of ours may have to wait long for the processor.
LIMIT_SECONDS = 100


def run_live(
    test: Callable[[Live], Awaitable[None]], *models: Model | str, settings: Settings = SETTINGS, **options: Any
) -> None:
    """Run a coroutine against a server of its own; it fails rather than hangs.

    There is one model, "echo", or those that are given, or, with `folder=`, what is found in a folder.
    """
    require_mark()

    async def main() -> None:
        serve = serve_outside if IS_NAMED else serve_inside
        async with asyncio.timeout(LIMIT_SECONDS), serve(*models, settings=settings, **options) as server:
            await test(server)

    asyncio.run(main())


def run_inside(
    test: Callable[[Inside], Awaitable[None]], *models: Model | str, settings: Settings = SETTINGS, **options: Any
) -> None:
    """The same for a test that takes parts of the server, or replaces them."""

    async def main() -> None:
        async with asyncio.timeout(LIMIT_SECONDS), serve_inside(*models, settings=settings, **options) as server:
            await test(server)

    asyncio.run(main())


def with_settings(**fields: Any) -> Settings:
    """API keys may be plain text."""
    fields["api_keys"] = tuple(ApiKey.of(key) if isinstance(key, str) else key for key in fields.get("api_keys", ()))
    return msgspec.structs.replace(SETTINGS, **fields)
