"""A server as a user runs it: `shimmy serve` in a process of its own, over fake workers. A test gets its port and may
look at what the system says of the process, and nothing else."""

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from shimmy.core.keys import ApiKey
from shimmy.core.settings import Settings
from shimmy.models.listing import Model
from shimmy.models.names import name_of_file
from tests.fakes.gguf_writer import model as small_model
from tests.fakes.instead import fake_workers
from tests.program import Program, program
from tests.server.client import Live

_FREE_PORT = "127.0.0.1:0"
_LISTENING = "0A"


class Outside(Live):
    def __init__(self, running: Program) -> None:
        super().__init__(int(running.url.rpartition(":")[2]))
        self.running = running

    async def until_active(self, count: int) -> None:
        """As the worker counts them, so there has to be one."""
        while int(await self.say("!active")) != count:
            pass

    async def until_idle(self) -> None:
        await self.until_no_connections()

    async def until_no_connections(self) -> None:
        """A socket that no process has open any more has no inode."""
        table = Path(f"/proc/{self.running.process.pid}/net/tcp")
        ours = re.compile(rf"\d+: [0-9A-F]+:{self.port:04X} \S+ (?!{_LISTENING})\S+( \S+){{3}} +\d+ +\d+ [1-9]")
        while ours.search(table.read_text()):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serve_outside(
    *models: Model | str, settings: Settings, folder: Path | None = None, keep_alive_seconds: float = 5.0
) -> AsyncIterator[Outside]:
    """`keep_alive_seconds` is for servers that can be told."""
    with tempfile.TemporaryDirectory() as home:
        folders = [folder] if folder else _folders(models or ("echo",), Path(home))
        flags = [*_flags(settings, Path(home)), *(word for each in folders for word in ("--model-dirs", str(each)))]
        with program(Path(home), *flags, environment=fake_workers()) as running:
            yield Outside(running)


def _folders(models: tuple[Model | str, ...], home: Path) -> set[Path]:
    """Where the models are; those without a file get one."""
    folders = set()
    for model in models:
        id, invalid = (model, None) if isinstance(model, str) else (model.id, model.invalid)
        path = Path(model.paths[0]) if isinstance(model, Model) else home / "models" / f"{id}.gguf"
        if not path.exists():
            if id != name_of_file(f"{id}.gguf"):
                raise ValueError(f"no file is called {id}, so the test is for `inside`")
            path = small_model().write(home / "models" / f"{id}.gguf")
            if invalid:
                os.truncate(path, 100)
        folders.add(path.parent)
    return folders


def _flags(settings: Settings, home: Path) -> Iterator[str]:
    """What is still running when the test ends is not waited for."""
    yield from ("--drain-seconds", "0")
    if settings.api_keys:
        yield from ("--api-keys-file", str(_keys_file(settings.api_keys, home / "keys")))
    for origin in settings.cors_origins:
        yield from ("--cors-origin", origin)
    known = Settings(bind=_FREE_PORT, api_keys=settings.api_keys, cors_origins=settings.cors_origins)
    if settings != known:
        raise ValueError(f"there are no flags for all of this, so the test is for `inside`: {settings}")


def _keys_file(keys: tuple[ApiKey, ...], path: Path) -> Path:
    """As digests: a test has no more of them."""
    path.touch(0o600)
    with open(path, "w") as file:
        for key in keys:
            limits = {"rpm": key.requests_per_minute, "tpm": key.tokens_per_minute, "concurrent": key.max_concurrent}
            words = [f"{name}={value}" for name, value in limits.items() if value]
            words += [f"name={key.name}"] if key.name else []
            file.write(" ".join([f"sha256:{key.digest.hex()}", f"scope={','.join(key.scopes)}", *words]) + "\n")
    return path
