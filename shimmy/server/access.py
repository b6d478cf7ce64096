"""What the access log says about one request. Never what was asked or answered."""

import logging
import time
from collections.abc import Callable

import msgspec

log = logging.getLogger(__name__)

_MAX_CHARS = 200
_QUIET = frozenset({"/health", "/readyz", "/grpc.health.v1.Health/Check"})


class Access(msgspec.Struct):
    """Filled in as the request passes; lives in `scope["state"]["access"]`. Times from `clock`, in seconds."""

    id: str
    method: str
    path: str
    model: str | None = None
    key: str | None = None
    status: int | None = None
    error: str | None = None
    num_tokens: int = 0
    first_text_at: float | None = None
    started_at: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def saw_text(self) -> None:
        if self.first_text_at is None:
            self.first_text_at = self.clock()

    def saw_end(self, decode_seconds: float) -> None:
        """Of an answer whose text came all at once: it had begun so long before."""
        if self.first_text_at is not None:
            self.first_text_at = max(self.started_at, min(self.first_text_at, self.clock() - decode_seconds))

    def log(self) -> None:
        """Write the line. Probes that succeed get none; they would drown everything else."""
        if self.path not in _QUIET or self.status != 200 or self.error:
            log.info("request", extra={"fields": self._fields()})

    def _fields(self) -> dict[str, str | int | float]:
        found = {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "model": self.model,
            "key": self.key,
            "status": self.status,
            "error": self.error,
            "ttft": None if self.first_text_at is None else round(self.first_text_at - self.started_at, 4),
            "tokens": self.num_tokens or None,
            "seconds": round(self.clock() - self.started_at, 4),
        }
        known = {name: value for name, value in found.items() if value is not None}
        return {name: value[:_MAX_CHARS] if isinstance(value, str) else value for name, value in known.items()}
