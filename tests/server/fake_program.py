"""The real `serve` in a process of its own, over fake workers: `python -m tests.server.fake_program SETTINGS MODELS`.

Both are JSON; MODELS maps ids to how loading goes (see tests/fakes/worker.py), in files beside the ready file.
"""

import sys
from pathlib import Path

import msgspec

from shimmy.core import ipc
from shimmy.core.settings import Settings
from shimmy.pool.admission import Admission
from shimmy.pool.placement import Placement
from shimmy.server.inference import Inference
from shimmy.server.lifecycle import OnProgress, serve
from tests.fakes.pool import FakeCatalog, fake_spawn, scripted_model


def main() -> int:
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    models = msgspec.json.decode(sys.argv[2], type=dict[str, str])

    def engine(settings: Settings, on_progress: OnProgress) -> Inference:
        folder = Path(settings.ready_file or "").parent
        catalog = FakeCatalog(*(scripted_model(id, folder, load) for id, load in models.items()))
        placement = Placement(ipc.EngineOptions(), spawn=fake_spawn, on_progress=on_progress)
        return Inference(catalog, placement, Admission(settings.max_queued_requests))

    return serve(settings, engine=engine)


if __name__ == "__main__":
    sys.exit(main())
