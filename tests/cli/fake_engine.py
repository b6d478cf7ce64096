"""The program with fake workers: `python -m tests.cli.fake_engine` stands for `shimmy`."""

from collections.abc import Callable

from shimmy.__main__ import main
from shimmy.core.ipc import EngineOptions
from shimmy.core.settings import Settings
from shimmy.pool.admission import Admission
from shimmy.pool.placement import Placement
from shimmy.server import lifecycle
from shimmy.server.inference import Inference
from tests.fakes.pool import FakeCatalog, fake_model, fake_spawn


def fake_engine(settings: Settings, on_progress: Callable[[str, float], None]) -> Inference:
    """Knows one model that works, "echo", and one whose file is broken, "broken"."""
    catalog = FakeCatalog(fake_model("echo"), fake_model("broken", invalid="truncated"))
    return Inference(catalog, Placement(EngineOptions(), spawn=fake_spawn, on_progress=on_progress), Admission(8))


if __name__ == "__main__":
    lifecycle.build_engine = fake_engine
    main()
