"""Whether new work should be sent here: not before the preloaded models answer, and not while the server drains."""

from collections.abc import Sequence
from typing import Any

from shimmy.core.errors import ShimmyError
from shimmy.server.inference import Inference


class Readiness:
    """Owns what is still being preloaded, what failed of it, and whether the server is on its way out."""

    def __init__(self, inference: Inference, preloading: bool = False) -> None:
        """`preloading`: not ready until `preload` is through."""
        self.draining = False
        self._models = inference.models
        self._preloading = preloading
        self._num_loaded, self._num_wanted = 0, 1
        self._failures: dict[str, str] = {}

    async def preload(self, names: Sequence[str]) -> dict[str, str]:
        """Load models, one after the other; returns what went wrong, by name."""
        self._preloading, self._num_wanted = True, len(names)
        try:
            for self._num_loaded, name in enumerate(names):
                await self._preload(name)
        finally:
            self._preloading = False
        return self._failures

    @property
    def state(self) -> str:
        if self.draining:
            return "draining"
        if self._preloading:
            return "loading"
        return "failed" if self._failures else "ready"

    def report(self) -> dict[str, Any]:
        """The body of `/readyz`; `fraction` of all that is to be loaded, 0 to 1."""
        report: dict[str, Any] = {"status": self.state}
        if self.state == "loading":
            report["fraction"] = (self._num_loaded + self._current_fraction()) / self._num_wanted
        if self._failures:
            report["failures"] = self._failures
        return report

    async def _preload(self, name: str) -> None:
        try:
            await self._models.preload(name)
        except ShimmyError as error:
            self._failures[name] = error.message

    def _current_fraction(self) -> float:
        return min((each.fraction for each in self._models.statuses() if each.state == "loading"), default=0.0)
