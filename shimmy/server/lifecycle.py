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
from math import inf
from typing import TYPE_CHECKING, Any, cast

import msgspec

from shimmy.core import exit_codes
from shimmy.core.errors import ShimmyError
from shimmy.core.settings import Settings
from shimmy.server import logs
from shimmy.server.inference import Inference
from shimmy.server.listen import Listener, StartError, is_loopback, is_unix, listen
from shimmy.server.readiness import Readiness
from shimmy.server.readyfile import ReadyFile

if TYPE_CHECKING:
    import ssl

    from hypercorn.config import Config
    from hypercorn.typing import ASGIFramework

    from shimmy.core.ipc import DiskCache
    from shimmy.core.keys import ApiKey
    from shimmy.models.catalog import Catalog
    from shimmy.models.watch import Watch
    from shimmy.pool.adapters import Adapters
    from shimmy.server.accept import Acceptor
    from shimmy.server.app import App

log = logging.getLogger(__name__)


# What stands between a start and its first worker asks the system, which a home on a network may hold up.
_SPAWN_SECONDS = 0.5
# For the last events of each stream to reach their clients.
_FLUSH_SECONDS = 3.0
# Nobody presses Ctrl-C twice within this time, and every bootloader hands a signal on within it.
_ECHO_SECONDS = 0.1
# As many as HTTP/2 has stream ids for.
_LAST_REQUEST = 1 << 30
# macOS takes no more for a process, not even from a process that may have any number (OPEN_MAX in sys/syslimits.h).
_MACOS_OPEN_FILES = 10_240

OnProgress = Callable[[str, float], None]
Engine = Callable[[Settings, OnProgress], Inference]


def build_engine(settings: Settings, on_progress: OnProgress) -> Inference:
    from shimmy.core.ipc import EngineOptions
    from shimmy.models.catalog import PATIENCE_SECONDS, Catalog
    from shimmy.models.discovery import header_cache, sources_from
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
    catalog = Catalog(sources_from(settings, os.environ), header_cache(os.environ), PATIENCE_SECONDS)
    draft = DraftModel(catalog, settings.draft_model) if settings.draft_model else None
    placement = Placement(
        options,
        on_progress=on_progress,
        draft=draft,
        adapters=_adapters(settings, catalog),
        memory_limit_bytes=settings.memory_budget_bytes,
        keep_alive_seconds=inf if settings.keep_alive_seconds is None else settings.keep_alive_seconds,
        num_workers=settings.num_workers,
        hang_seconds=settings.hang_seconds or inf,
        has_gpu_backend=_has_gpu_backend,
    )
    admission = Admission(settings.max_queued_requests, max(1, len(settings.api_keys)))
    return Inference(catalog, placement, admission, queue_seconds=settings.queue_seconds)


async def _has_gpu_backend() -> bool:
    # Asked when a model is loaded, which a start need not do; a home on a network may take its time.
    from shimmy.hardware.backends import is_there

    return await asyncio.to_thread(is_there)


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
        ready = with_keys(settings)
        tls = _tls(settings)
        listener = listen(ready)
    except StartError as error:
        logs.say(f"shimmy: {error}")
        return error.exit_code
    if not ready.api_keys and not is_loopback(listener.address) and not is_unix(listener.address):
        logs.say(f"shimmy: WARNING: without an API key everyone who can reach port {listener.port} is let in")
    _raise_file_limit()
    try:
        return asyncio.run(_run(settings, ready, listener, tls, engine, on_progress))
    finally:
        listener.remove()


async def _run(
    given: Settings,
    ready: Settings,
    listener: Listener,
    tls: "ssl.SSLContext | None",
    engine: Engine,
    on_progress: OnProgress,
) -> int:
    return await Server(ready, listener, engine(ready, on_progress), given, tls).run()


def with_keys(settings: Settings) -> Settings:
    """With the keys of the file, besides those that were given. Raises `StartError`."""
    keys: dict[bytes, ApiKey] = {key.digest: key for key in settings.api_keys}
    if settings.api_keys_file is not None:
        from shimmy.server.keys_file import KeysFileError, read_keys

        try:
            found, doubt = read_keys(settings.api_keys_file)
        except KeysFileError as error:
            raise StartError(str(error), exit_codes.USAGE) from None
        keys |= {key.digest: key for key in found}
        if doubt:
            logs.say(f"shimmy: WARNING: {doubt}")
    return msgspec.structs.replace(settings, api_keys=tuple(keys.values()))


def _tls(settings: Settings) -> "ssl.SSLContext | None":
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise StartError("--tls-cert and --tls-key go together", exit_codes.USAGE)
    from shimmy.server.tls import server_context

    try:
        return server_context(settings.tls_cert, settings.tls_key)
    except ImportError as error:
        raise StartError(f"this program was made without TLS: {error}", exit_codes.USAGE) from None


class Server:
    """One life: loading and serving side by side, then draining, then the end."""

    def __init__(
        self,
        settings: Settings,
        listener: Listener,
        inference: Inference,
        given: Settings | None = None,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        """`settings` are those that were `given`, with the keys of their file."""
        self._given = given or settings
        self._settings = settings
        self._listener = listener
        self._tls = tls
        self._inference = inference
        self._preloading = bool(settings.preload or settings.pinned or settings.model_path)
        self._readiness = Readiness(inference, self._preloading)
        self._ready_file = ReadyFile(settings.ready_file)
        self._exit_code = 0
        self._app: App | None = None
        self._watch: Watch | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._told_at = 0.0
        self._over = asyncio.Event()

    async def run(self) -> int:
        _on_signals(self._on_signal)
        if self._given.api_keys_file is not None and hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_keys)
        background: list[asyncio.Task[None]] = []
        if self._preloading:
            await self._inference.models.refresh()
            preloading = asyncio.create_task(_logged(self._preload()))
            background.append(preloading)
            await _first_of(preloading, self._inference.models.wait_for_worker(), _SPAWN_SECONDS)
        background.append(asyncio.create_task(_logged(self._announce())))
        try:
            await self._serve_http()
        finally:
            for task in background:
                task.cancel()
            if self._watch is not None:
                await asyncio.to_thread(self._watch.stop)
            await self._inference.close()
            self._ready_file.remove()
        return self._exit_code

    async def _serve_http(self) -> None:
        from shimmy.server.app import build_app

        listener = self._listener
        self._app = build_app(self._inference, self._settings, self._readiness, listener.host, listener.address)
        await acceptor(self._app, self._settings, listener, self._tls).serve(self._over.wait)

    def _reload_keys(self) -> None:
        """Those that were read last stay, if what is in the file now cannot be used."""
        try:
            self._settings = with_keys(self._given)
        except StartError as error:
            return logs.say(f"shimmy: the API keys stay as they were: {error}")
        if self._app is not None:
            self._app.replace_keys(self._settings.api_keys)
        logs.say(f"shimmy: {len(self._settings.api_keys)} API keys are valid now")

    async def _preload(self) -> None:
        for name in self._settings.pinned:
            try:
                await self._inference.models.set_stay(name, pinned=True)
            except ShimmyError:
                # Loading it says what is wrong.
                continue
        for name, reason in (await self._readiness.preload(self._names())).items():
            logs.say(f"shimmy: cannot load {name}: {reason}")

    def _names(self) -> list[str]:
        """Of what is to be preloaded, first the model that was given as a file."""
        named = dict.fromkeys((*self._settings.pinned, *self._settings.preload))
        if self._settings.model_path is None:
            return list(named)
        from shimmy.models.checkpoint import means

        path = os.path.abspath(os.path.expanduser(self._settings.model_path))
        found = (model.id for model in self._inference.models.catalog.models() if means(path, model.paths))
        return [next(found, path), *named]

    async def _announce(self) -> None:
        """Say where we are, once it is true."""
        await _answered(self._listener, self._tls)
        _end_start()
        try:
            self._ready_file.write(self._listener.url)
        except OSError as error:
            logs.say(f"shimmy: cannot write the ready file: {error}")
            self._exit_code = exit_codes.FAILURE
            return self._over.set()
        logs.say(f"shimmy: listening on {self._listener.url}")
        await self._inference.models.refresh()
        if self._app is not None:
            await asyncio.to_thread(self._app.prepare)
        self._watch_models()
        if not any(model.invalid is None for model in self._inference.models.catalog.models()):
            places = "".join(f"\n  {place}" for place in self._inference.models.catalog.searched())
            logs.say(f"shimmy: no models found; put a .gguf file into one of these, or use --model-path FILE:{places}")

    def _watch_models(self) -> None:
        from shimmy.models.watch import Watch

        self._inference.models.follow_changes()
        self._watch = Watch(self._inference.models.catalog)
        self._watch.start()

    def _on_signal(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._leaving is None:
            self._told_at = now
            self._readiness.draining = True
            self._leaving = asyncio.create_task(self._leave())
        elif now - self._told_at >= (_ECHO_SECONDS if _has_echoes() else 0.0):
            self._ready_file.remove()
            os._exit(exit_codes.INTERRUPTED)

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


def acceptor(app: "App", settings: Settings, listener: Listener, tls: "ssl.SSLContext | None") -> "Acceptor":
    from shimmy.server.accept import Acceptor

    return Acceptor(
        cast("ASGIFramework", app),
        http_config(settings.max_body_bytes),
        listener.fd,
        max_connections=settings.max_connections,
        max_per_address=settings.max_connections_per_address,
        stall_seconds=settings.stall_seconds,
        tls=tls,
    )


def http_config(max_message_bytes: int) -> "Config":
    """`max_message_bytes` is what a message over WebSocket may have."""
    from hypercorn.config import Config

    config = Config()
    config.include_server_header = False
    config.websocket_max_message_size = max_message_bytes
    # On HTTP/2 Hypercorn does not wait for what runs when it closes a connection for its many requests.
    config.keep_alive_max_requests = _LAST_REQUEST
    config.errorlog = logging.getLogger("hypercorn")
    return config


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Nobody waits for these steps, so a fault in them would go unseen."""
    try:
        await work
    except Exception:
        log.exception("a step of the start failed")


async def _first_of(task: "asyncio.Task[None]", event: Coroutine[Any, Any, None], seconds: float) -> None:
    """Returns when the first of the two is over, or after `seconds`. The task goes on."""
    waiting = asyncio.create_task(event)
    await asyncio.wait([task, waiting], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _end_start() -> None:
    """All that lives now lives for ever, so the collector need not look at it again; `__main__` had it wait."""
    gc.freeze()
    gc.set_threshold(700, 10, 10)


async def _answered(listener: Listener, tls: "ssl.SSLContext | None") -> None:
    """Returns once the server answers a request. It is us who listen, so there is nothing to retry."""
    if is_unix(listener.address):
        reader, writer = await asyncio.open_unix_connection(listener.path, ssl=_trusting(tls))
    else:
        host, port = listener.url.removeprefix(f"{listener.scheme}://").rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=_trusting(tls))
    writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    await writer.wait_closed()


def _trusting(tls: "ssl.SSLContext | None") -> "ssl.SSLContext | None":
    if tls is None:
        return None
    from shimmy.server.tls import client_context

    return client_context()


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
