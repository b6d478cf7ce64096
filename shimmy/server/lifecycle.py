"""From settings to an exit code: binds, serves, and leaves when it is told to. Owns the signals, and the order in which
a server's parts begin and end; what they are made of is in assembly.py.

The order of imports matters here: a model that is to be preloaded starts loading before the HTTP stack is imported.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from shimmy.core import exit_codes
from shimmy.core.errors import ShimmyError
from shimmy.core.settings import Settings
from shimmy.server import logs
from shimmy.server.assembly import OnProgress, acceptor, build_engine, tls_context, with_keys
from shimmy.server.inference import Inference
from shimmy.server.listen import Listener, StartError, is_loopback, is_unix, listen
from shimmy.server.readiness import Readiness
from shimmy.server.readyfile import ReadyFile

if TYPE_CHECKING:
    import ssl

    from shimmy.models.watch import Watch
    from shimmy.server.app import App

log = logging.getLogger(__name__)


# What stands between a start and its first worker asks the system, which a home on a network may hold up.
_SPAWN_SECONDS = 0.5
# For the last events of each stream to reach their clients.
_FLUSH_SECONDS = 3.0
# Nobody presses Ctrl-C twice within this time, and every bootloader hands a signal on within it.
_ECHO_SECONDS = 0.1
# macOS takes no more for a process, not even from a process that may have any number (OPEN_MAX in sys/syslimits.h).
_MACOS_OPEN_FILES = 10_240


def serve(settings: Settings, *, on_progress: OnProgress = lambda model_id, fraction: None) -> int:
    """Serve until a signal comes; returns the exit code. `on_progress` gets a model's id and how much of it is loaded.

    0 after a drain, 1 when the ready file cannot be written, 2 for settings that make no sense or no safe server,
    4 when the address cannot be bound; a second signal exits with 130 on the spot.
    """
    logs.configure(settings.log_format)
    try:
        ready = with_keys(settings)
        tls = tls_context(settings)
        listener = listen(ready)
    except StartError as error:
        logs.say(f"shimmy: {error}")
        return error.exit_code
    if not ready.api_keys and not is_loopback(listener.address) and not is_unix(listener.address):
        logs.say(f"shimmy: WARNING: without an API key everyone who can reach port {listener.port} is let in")
    _raise_file_limit()
    try:
        return asyncio.run(_run(settings, ready, listener, tls, on_progress))
    finally:
        listener.remove()


async def _run(
    given: Settings, ready: Settings, listener: Listener, tls: "ssl.SSLContext | None", on_progress: OnProgress
) -> int:
    return await Server(ready, listener, build_engine(ready, on_progress), given, tls).run()


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
