"""The executable under test: `SHIMMY_EXE`, else dist/shimmy. Without one these tests are skipped.

They need a machine to themselves, more or less, so they also are when pytest runs in several processes, unless
`SHIMMY_EXE` asks for them.
"""

import os
from pathlib import Path

import pytest

BUILT = Path(__file__).parents[2] / "dist" / "shimmy"


@pytest.fixture(scope="session")
def exe() -> Path:
    chosen = os.environ.get("SHIMMY_EXE")
    if chosen:
        return Path(chosen).resolve(strict=True)
    if not BUILT.exists():
        pytest.skip("there is no dist/shimmy (make freeze)")
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("dist/shimmy is tested alone (make frozen-test)")
    return BUILT


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment as after `env -i`, but for an empty home of its own."""
    folder = tmp_path / "home"
    folder.mkdir()
    return {"HOME": str(folder)}
