"""A hub on this machine and an empty store, for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shimmy.core.pulling import Progress
from shimmy.store.folder import Store
from shimmy.store.manifests import Manifest
from shimmy.store.pull import Pull
from tests.fakes.hub import NO_PROXIES, Hub, running_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for module in ("download", "pull"):
        monkeypatch.setattr(f"shimmy.store.{module}.PAUSE_SECONDS", 0.001)
    with running_hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("SSL_CERT_FILE", hub.environ["SSL_CERT_FILE"])
        yield hub


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def pull(
    hub: Hub, store: Store, name: str, revision: str | None = None, **environ: str
) -> tuple[Manifest, list[Progress]]:
    """The manifest, and all that was reported. Whoever runs the tests may have a key of Ollama's."""
    reported: list[Progress] = []
    own = {name: value for name, value in hub.environ.items() if name not in NO_PROXIES}
    environ = {"HOME": "/nonexistent", **own, **environ}
    return Pull.from_environ(store, environ, reported.append).run(name, revision), reported
