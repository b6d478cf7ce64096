"""What a server is made of, from its settings: its engine, its keys, its certificate, and what accepts connections.

When each part begins and ends, it does not know: that is the business of lifecycle.py.
"""

import logging
import os
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, cast

import msgspec

from shimmy.core import exit_codes
from shimmy.core.settings import Settings
from shimmy.server import logs
from shimmy.server.inference import Inference
from shimmy.server.listen import Listener, StartError

if TYPE_CHECKING:
    import ssl

    from hypercorn.config import Config
    from hypercorn.typing import ASGIFramework

    from shimmy.core.ipc import DiskCache
    from shimmy.core.keys import ApiKey
    from shimmy.models.catalog import Catalog
    from shimmy.pool.adapters import Adapters
    from shimmy.server.accept import Acceptor
    from shimmy.server.app import App

# As many as HTTP/2 has stream ids for.
_LAST_REQUEST = 1 << 30

OnProgress = Callable[[str, float], None]


def build_engine(settings: Settings, on_progress: OnProgress) -> Inference:
    """Without workers yet, and with a catalog that is empty until its first scan."""
    from shimmy.core.ipc import EngineOptions
    from shimmy.models.catalog import PATIENCE_SECONDS, Catalog
    from shimmy.models.discovery import header_cache, sources_from
    from shimmy.pool.admission import Admission
    from shimmy.pool.draft import DraftModel
    from shimmy.pool.placement import Placement
    from shimmy.pool.room import look_for_gpu_backend

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
        has_gpu_backend=look_for_gpu_backend,
    )
    admission = Admission(settings.max_queued_requests, max(1, len(settings.api_keys)))
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


def tls_context(settings: Settings) -> "ssl.SSLContext | None":
    """None without a certificate. Raises `StartError`."""
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise StartError("--tls-cert and --tls-key go together", exit_codes.USAGE)
    from shimmy.server.tls import server_context

    try:
        return server_context(settings.tls_cert, settings.tls_key)
    except ImportError as error:
        raise StartError(f"this program was made without TLS: {error}", exit_codes.USAGE) from None


def acceptor(app: "App", settings: Settings, listener: Listener, tls: "ssl.SSLContext | None") -> "Acceptor":
    from shimmy.server.accept import Acceptor

    return Acceptor(
        cast("ASGIFramework", app),
        _http_config(settings.max_body_bytes),
        listener.fd,
        max_connections=settings.max_connections,
        max_per_address=settings.max_connections_per_address,
        stall_seconds=settings.stall_seconds,
        tls=tls,
    )


def _http_config(max_message_bytes: int) -> "Config":
    """`max_message_bytes` is what a message over WebSocket may have."""
    from hypercorn.config import Config

    config = Config()
    config.include_server_header = False
    config.websocket_max_message_size = max_message_bytes
    # On HTTP/2 Hypercorn does not wait for what runs when it closes a connection for its many requests.
    config.keep_alive_max_requests = _LAST_REQUEST
    config.errorlog = logging.getLogger("hypercorn")
    return config
