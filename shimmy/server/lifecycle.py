"""From settings to an exit code: binds, builds everything, serves, and leaves when it is told to. Owns the signals.

The order of imports matters here: a model that is to be preloaded starts loading before the HTTP stack is imported.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

import msgspec

from shimmy.core.settings import Settings
from shimmy.server import logs
from shimmy.server.inference import Inference
from shimmy.server.listen import BACKLOG, Listener, StartError, is_loopback, listen
from shimmy.server.readiness import Readiness
from shimmy.server.readyfile import ReadyFile

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.typing import Framework

    from shimmy.core.ipc import DiskCache
    from shimmy.models.catalog import Catalog
    from shimmy.pool.adapters import Adapters
    from shimmy.server.app import App

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

# Starting a process takes several turns of the loop, but no waiting; measured: 11 on Python 3.11.
_SPAWN_TURNS = 50
# For the last events of each stream to reach their clients.
_FLUSH_SECONDS = 3.0
# Nobody presses Ctrl-C twice within this time, and every bootloader hands a signal on within it.
_ECHO_SECONDS = 0.1
# macOS takes no more for a process, not even from a process that may have any number (OPEN_MAX in sys/syslimits.h).
_MACOS_OPEN_FILES = 10_240

OnProgress = Callable[[str, float], None]
Engine = Callable[[Settings, OnProgress], Inference]


def build_engine(settings: Settings, on_progress: OnProgress) -> Inference:
    from shimmy.core.ipc import EngineOptions
    from shimmy.models.catalog import Catalog
    from shimmy.models.discovery import sources_from
    from shimmy.pool.admission import Admission
    from shimmy.pool.draft import DraftModel
    from shimmy.pool.placement import Placement

    options = EngineOptions(
        context_length=settings.context_length,
        num_sequences=settings.num_sequences,
        num_threads=settings.num_threads,
        prefix_ram_bytes=settings.prefix_ram_bytes,
        disk_cache=_disk_cache(settings),
        speculative=settings.speculative or ("draft" if settings.draft_model else "none"),
        settings=b"" if settings.engine is None else msgspec.msgpack.encode(settings.engine),
    )
    catalog = Catalog(sources_from(settings, os.environ))
    draft = DraftModel(catalog, settings.draft_model) if settings.draft_model else None
    placement = Placement(options, on_progress=on_progress, draft=draft, adapters=_adapters(settings, catalog))
    admission = Admission(settings.max_queued_requests, max(1, len(set(settings.api_keys))))
    return Inference(catalog, placement, admission, queue_seconds=settings.queue_seconds)


def _adapters(settings: Settings, catalog: "Catalog") -> "Adapters | None":
    if settings.engine is None or not settings.engine.lora:
        return None
    from shimmy.pool.adapters import Adapters

    return Adapters(settings, catalog, os.environ)


def _disk_cache(settings: Settings) -> "DiskCache | None":
    if not settings.kv_cache_bytes:
        return None
    from shimmy.server.disk_cache import disk_cache

    return disk_cache(settings)


def serve(
    settings: Settings, *, on_progress: OnProgress = lambda model_id, fraction: None, engine: Engine = build_engine
) -> int:
    """Serve until a signal comes; returns the exit code. `on_progress` gets a model's id and how much of it is loaded.

    0 after a drain, 1 when the ready file cannot be written, 2 for settings that make no sense or no safe server,
    4 when the address cannot be bound; a second signal exits with 130 on the spot.
    """
    logs.configure(settings.log_format)
    try:
        listener = listen(settings)
    except StartError as error:
        logs.say(f"shimmy: {error}")
        return error.exit_code
    if not settings.api_keys and not is_loopback(listener.address):
        logs.say(f"shimmy: WARNING: without an API key everyone who can reach port {listener.port} is let in")
    _raise_file_limit()
    return asyncio.run(_run(settings, listener, engine, on_progress))


async def _run(settings: Settings, listener: Listener, engine: Engine, on_progress: OnProgress) -> int:
    return await Server(settings, listener, engine(settings, on_progress)).run()


class Server:
    """One life: loading and serving side by side, then draining, then the end."""

    def __init__(self, settings: Settings, listener: Listener, inference: Inference) -> None:
        self._settings = settings
        self._listener = listener
        self._inference = inference
        self._preloading = bool(settings.preload or settings.model_path)
        self._readiness = Readiness(inference, self._preloading)
        self._ready_file = ReadyFile(settings.ready_file)
        self._exit_code = 0
        self._app: App | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._over = asyncio.Event()

    async def run(self) -> int:
        _on_signals(self._on_signal)
        background: list[asyncio.Task[None]] = []
        if self._preloading:
            await self._inference.refresh()
            background.append(asyncio.create_task(_logged(self._preload())))
            for _ in range(_SPAWN_TURNS):
                await asyncio.sleep(0)
        background.append(asyncio.create_task(_logged(self._announce())))
        try:
            await self._serve_http()
        finally:
            for task in background:
                task.cancel()
            await self._inference.close()
            self._ready_file.remove()
        return self._exit_code

    async def _serve_http(self) -> None:
        from hypercorn.asyncio import serve

        from shimmy.server.app import build_app

        listener = self._listener
        self._app = build_app(self._inference, self._settings, self._readiness, listener.host, listener.address)
        try:
            await serve(cast("Framework", self._app), http_config(listener), shutdown_trigger=self._over.wait)
        except asyncio.CancelledError:
            # How Hypercorn 0.18 ends when connections outlive its graceful_timeout.
            if not self._over.is_set():
                raise

    async def _preload(self) -> None:
        for name, reason in (await self._readiness.preload(self._names())).items():
            logs.say(f"shimmy: cannot load {name}: {reason}")

    def _names(self) -> list[str]:
        """Of what is to be preloaded, first the model that was given as a file."""
        if self._settings.model_path is None:
            return list(self._settings.preload)
        path = os.path.abspath(os.path.expanduser(self._settings.model_path))
        found = (model.id for model in self._inference.catalog.models() if path in model.paths)
        return [next(found, path), *self._settings.preload]

    async def _announce(self) -> None:
        """Say where we are, once it is true."""
        await _answered(self._listener)
        _end_start()
        try:
            self._ready_file.write(self._listener.url)
        except OSError as error:
            logs.say(f"shimmy: cannot write the ready file: {error}")
            self._exit_code = EXIT_FAILURE
            return self._over.set()
        logs.say(f"shimmy: listening on {self._listener.url}")
        await self._inference.refresh()
        if self._app is not None:
            await asyncio.to_thread(self._app.prepare)
        if not any(model.invalid is None for model in self._inference.catalog.models()):
            places = "".join(f"\n  {place}" for place in self._inference.catalog.searched())
            logs.say(f"shimmy: no models found; put a .gguf file into one of these, or use --model-path FILE:{places}")

    def _on_signal(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._leaving is None:
            self._told_at = now
            self._readiness.draining = True
            self._leaving = asyncio.create_task(self._leave())
        elif now - self._told_at >= (_ECHO_SECONDS if _has_echoes() else 0.0):
            self._ready_file.remove()
            os._exit(EXIT_INTERRUPTED)

    async def _leave(self) -> None:
        """Streams get their time, then an error event, then their connections are closed."""
        seconds = self._settings.drain_seconds
        if num_active := self._inference.num_active:
            logs.say(f"shimmy: {num_active} requests have {seconds:g} s to finish; a second signal ends them now")
        await self._inference.drain(seconds)
        await self._inference.close()
        if self._app is not None:
            await self._app.finish(_FLUSH_SECONDS)
        self._over.set()


def _on_signals(handler: Callable[[], None]) -> None:
    """Has the running loop call `handler` when it is to end. SIGBREAK is Windows': Ctrl-Break, or a console closed."""
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:
            # Windows' loop has no such thing, but a signal wakes it all the same.
            signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(handler))


def _has_echoes() -> bool:
    """Whether PyInstaller's own bootloader waits for this process: it hands on to us what a terminal sends to both."""
    return "_PYI_PARENT_PROCESS_LEVEL" in os.environ


def http_config(listener: Listener) -> "Config":
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fd}"]
    config.backlog = BACKLOG
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn")
    return config


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Nobody waits for these steps, so a fault in them would go unseen."""
    try:
        await work
    except Exception:
        log.exception("a step of the start failed")


def _end_start() -> None:
    """All that lives now lives for ever, so the collector need not look at it again; `__main__` had it wait."""
    gc.freeze()
    gc.set_threshold(700, 10, 10)


async def _answered(listener: Listener) -> None:
    """Returns once the server answers a request. It is us who listen, so there is nothing to retry."""
    host, port = listener.url.removeprefix("http://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    await writer.wait_closed()


def _raise_file_limit() -> None:
    """As many connections as the system lets us have. On Windows that is not limited in this way."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, min(hard, _MACOS_OPEN_FILES)) if sys.platform == "darwin" else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        log.warning("the limit of open files stays at %d", soft)
