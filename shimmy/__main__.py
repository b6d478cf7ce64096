"""Where the program starts: `python -m shimmy`, the `shimmy` command and the frozen executable. The worker command is
dispatched before anything of the command line is imported: a worker's start-up time is part of a model's."""

import gc
import sys

from shimmy import lean

# Imports make much and drop nothing, and the collector would look through all of it, again and again.
_START_THRESHOLD = 100_000


def main() -> int:
    gc.set_threshold(_START_THRESHOLD)
    worker = sys.argv[1:2] == ["_worker"]
    lean.install(lean.WORKER_STAND_INS if worker else None)
    if worker:
        from shimmy.worker.main import main as work

        return work()
    from shimmy.cli.program import program

    program(prog_name="shimmy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
