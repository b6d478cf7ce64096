"""What /metrics and /diag say: counts of what was answered since the start, and what this machine and its models are.

Labels have few values: the pattern of a route, never a path as it was sent, and no model names.
"""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from shimmy import __version__
from shimmy.server.access import Access
from shimmy.server.inference import Inference

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# What a pattern says of a parameter beside its name.
_CONVERTOR = re.compile(r":\w+(?=\})")
_STATES = ("unloaded", "loading", "ready", "failed", "restarting")
# Name, kind and meaning; docs/metrics.md has the same (a test compares).
METRICS = {
    "shimmy_info": ("gauge", "Always 1; the version is a label."),
    "shimmy_uptime_seconds": ("gauge", "Time since the server started."),
    "shimmy_requests_total": ("counter", "Requests that ended, by endpoint and status."),
    "shimmy_request_duration_seconds": ("histogram", "From a request's arrival to its end."),
    "shimmy_time_to_first_token_seconds": ("histogram", "From a request's arrival to its first text."),
    "shimmy_generated_tokens_total": ("counter", "Tokens of answers that were finished."),
    "shimmy_requests_active": ("gauge", "Requests that wait or run."),
    "shimmy_models": ("gauge", "Models, by the state they are in."),
    "shimmy_workers": ("gauge", "Worker processes with a model that is loaded."),
    "shimmy_model_loads_total": ("counter", "Models that were loaded, or failed to, by outcome."),
    "shimmy_model_switches_total": (
        "counter",
        "Loaded models replaced by another version, or not, by outcome.",
    ),
    "shimmy_model_evictions_total": ("counter", "Models that left without being told to, by reason."),
    "shimmy_worker_crashes_total": ("counter", "Workers that died while their model was loaded."),
    "shimmy_memory_limit_bytes": ("gauge", "Main memory that models may take together; none where it is not known."),
    "shimmy_memory_taken_bytes": ("gauge", "Main memory that models take, or that is kept for them."),
    "shimmy_gpu_memory_limit_bytes": ("gauge", "Memory of each GPU that models may take together, when last asked."),
    "shimmy_gpu_memory_taken_bytes": ("gauge", "Memory of each GPU that models take, or that is kept for them."),
}


class Histogram:
    def __init__(self) -> None:
        self._counts = [0] * len(_BUCKETS)
        self._num = 0
        self._sum = 0.0

    def note(self, seconds: float) -> None:
        self._num += 1
        self._sum += seconds
        for at, bound in enumerate(_BUCKETS):
            self._counts[at] += seconds <= bound

    def lines(self, name: str) -> Iterator[str]:
        for bound, count in zip(_BUCKETS, self._counts, strict=True):
            yield f'{name}_bucket{{le="{bound:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._num}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {self._num}"


class Metrics:
    """Owns the counts; `note` every request that ended."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._started_at = time.monotonic()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._durations, self._first_tokens = Histogram(), Histogram()
        self._num_tokens = 0

    def note(self, access: Access, endpoint: str) -> None:
        self._requests[endpoint, access.status or 0] += 1
        self._durations.note(access.clock() - access.started_at)
        if access.first_text_at is not None:
            self._first_tokens.note(access.first_text_at - access.started_at)
        self._num_tokens += access.num_tokens

    def text(self) -> str:
        """The exposition format of Prometheus, version 0.0.4."""
        lines: list[str] = []
        for name, (kind, meaning) in METRICS.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *self._lines(name)]
        return "\n".join([*lines, ""])

    def report(self) -> dict[str, Any]:
        """JSON with the original Shimmy's keys; null is what is not known."""
        models = self._models()
        total, available = _memory_mb()
        manual = sum(model.source.startswith("--") for model in models)
        return {
            "service": "shimmy",
            "version": __version__,
            "gpu_detected": self._uses_gpu(),
            "gpu_vendor": None,
            "models": {
                "total_count": len(models),
                "total_size_mb": sum(model.size_bytes for model in models) >> 20,
                "by_type": {"discovered": len(models) - manual, "manual": manual},
            },
            "system": {
                "memory_total_mb": total,
                "memory_free_mb": None,
                "memory_available_mb": available,
            },
            "features": {"huggingface": False},
            "endpoints": ["/health", "/metrics", "/diag", "/api/generate", "/ws/generate", "/v1/chat/completions"],
            "timestamp": timestamp(),
        }

    def health(self) -> dict[str, Any]:
        """What the original's /health has besides the status; of the models it is what the last scan found."""
        models = self._models()
        manual = sum(model.source.startswith("--") for model in models)
        return {
            "service": "shimmy",
            "models": {"total": len(models), "discovered": len(models) - manual, "manual": manual},
            "endpoints": {
                "health": "/health",
                "models": "/v1/models",
                "chat": "/v1/chat/completions",
                "generate": "/api/generate",
            },
            "compatibility": {"openai": True, "cors": True},
            "timestamp": timestamp(),
            "uptime_seconds": round(self.uptime_seconds),
        }

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self._started_at

    def _lines(self, name: str) -> Iterator[str]:
        match name:
            case "shimmy_info":
                yield f'{name}{{version="{__version__}"}} 1'
            case "shimmy_uptime_seconds":
                yield f"{name} {self.uptime_seconds:.3f}"
            case "shimmy_requests_total":
                for (endpoint, status), count in sorted(self._requests.items()):
                    yield f'{name}{{endpoint="{endpoint}",status="{status}"}} {count}'
            case "shimmy_request_duration_seconds":
                yield from self._durations.lines(name)
            case "shimmy_time_to_first_token_seconds":
                yield from self._first_tokens.lines(name)
            case "shimmy_generated_tokens_total":
                yield f"{name} {self._num_tokens}"
            case "shimmy_requests_active":
                yield f"{name} {self._inference.num_active}"
            case "shimmy_models":
                states = {status.id: status.state for status in self._inference.models.statuses()}
                counts: Counter[str] = Counter(states.get(model.id, "unloaded") for model in self._models())
                for state in _STATES:
                    yield f'{name}{{state="{state}"}} {counts[state]}'
            case "shimmy_workers":
                yield f"{name} {sum(status.num_workers for status in self._inference.models.statuses())}"
            case "shimmy_model_loads_total":
                yield from self._counted(name, "outcome", {"ok": "loads", "failed": "failed_loads"})
            case "shimmy_model_switches_total":
                yield from self._counted(name, "outcome", {"ok": "switches", "failed": "failed_switches"})
            case "shimmy_model_evictions_total":
                yield from self._counted(name, "reason", {"memory": "evictions", "idle": "expirations"})
            case "shimmy_worker_crashes_total":
                yield f"{name} {self._inference.models.tally['crashes']}"
            case "shimmy_memory_limit_bytes":
                if (limit := self._inference.models.usage().limit_bytes) is not None:
                    yield f"{name} {limit}"
            case "shimmy_memory_taken_bytes":
                yield f"{name} {self._inference.models.usage().taken_bytes}"
            case "shimmy_gpu_memory_limit_bytes":
                for gpu, usage in self._inference.models.gpu_usage().items():
                    yield f"{name}{{gpu={_quoted(gpu)}}} {usage.limit_bytes}"
            case "shimmy_gpu_memory_taken_bytes":
                for gpu, usage in self._inference.models.gpu_usage().items():
                    yield f"{name}{{gpu={_quoted(gpu)}}} {usage.taken_bytes}"

    def _counted(self, name: str, label: str, tallies: dict[str, str]) -> Iterator[str]:
        """What the pool has counted, by its names, each with the value of the label that stands for it."""
        for value, tally in tallies.items():
            yield f'{name}{{{label}="{value}"}} {self._inference.models.tally[tally]}'

    def _models(self) -> list[Any]:
        return [model for model in self._inference.models.catalog.models() if not model.invalid]

    def _uses_gpu(self) -> bool | None:
        """Whether a loaded model does; None where none is loaded."""
        loaded = [status.loaded for status in self._inference.models.statuses() if status.loaded is not None]
        return any(device != "CPU" for each in loaded for device in each.layers) if loaded else None


def _quoted(label: str) -> str:
    for mark in ("\\", '"', "\n"):
        label = label.replace(mark, "\\n" if mark == "\n" else f"\\{mark}")
    return f'"{label}"'


def diagnosis() -> dict[str, Any]:
    """/diag: this machine, as the original says it."""
    return {"os": sys.platform, "cores": os.cpu_count(), "mem_total_mb": _memory_mb()[0]}


def endpoint_of(scope: Any) -> str:
    """The pattern of the route that was found; "other" where there was none."""
    return _CONVERTOR.sub("", scope["state"].get("route", "other"))


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _memory_mb() -> tuple[int, int] | tuple[None, None]:
    """How much there is, and how much is left."""
    from shimmy.hardware.memory import memory

    known = memory()
    return (known.total_bytes >> 20, known.available_bytes >> 20) if known else (None, None)
