"""Everything a person can set about the server, as one record. The CLI fills it; nothing else reads the environment
for these. docs/settings.md lists the same fields (a test compares)."""

from typing import TYPE_CHECKING, Literal

import msgspec

from shimmy.core.keys import ApiKey
from shimmy.core.secret import Secret

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11435
LAST_AUTO_PORT = 11535


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`bind` is "host:port", "unix:/path" or "auto"; a `*_seconds` is a duration, a `*_bytes` a size."""

    bind: str = f"{DEFAULT_HOST}:{DEFAULT_PORT}"
    api_keys: tuple[ApiKey, ...] = ()
    api_keys_file: str | None = None
    insecure_no_auth: bool = False
    cors_origins: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    max_connections: int = 2048
    max_connections_per_address: int = 256
    allow_pull: bool = False
    ready_file: str | None = None
    log_format: str = "text"

    model_path: str | None = None
    model_dirs: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    memory_budget_bytes: int | None = None
    keep_alive_seconds: float | None = None
    num_workers: int = 1
    context_length: int | None = None
    num_sequences: int = 8
    num_threads: int | None = None
    prefix_ram_bytes: int = 256 << 20
    kv_cache_bytes: int = 0
    kv_cache_key: Secret | None = None
    engine: "EngineSettings | None" = None
    lora_model: str | None = None
    draft_model: str | None = None
    speculative: Literal["none", "ngram", "draft"] | None = None

    max_body_bytes: int = 16 << 20
    body_seconds: float = 30.0
    ping_seconds: float = 15.0
    stall_seconds: float = 60.0
    hang_seconds: float = 300.0
    drain_seconds: float = 30.0
    max_queued_requests: int = 512
    queue_seconds: float | None = None
