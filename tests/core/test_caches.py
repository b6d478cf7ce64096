"""Where the cache is, whatever the environment says."""

import os
import sys
from pathlib import Path

import pytest

from shimmy.core.caches import roots


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = roots({"XDG_CACHE_HOME": "/var/cache/someone"})
    assert first == Path("/var/cache/someone/shimmy")
    assert second.name == f"shimmy-{os.getuid()}"
    for relative in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "cache"}):
        assert next(roots(relative)) == tmp_path / ".cache" / "shimmy"
