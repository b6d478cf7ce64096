"""`python -m tests.clients`: runs all clients as the tests do, and writes what they gave into results.json and
docs/protocols.md. What stands after it goes to pytest: with `-k codex` only this client's results are made anew."""

import platform
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shimmy import __version__
from tests.clients import page
from tests.clients.roster import CLIENTS, Client
from tests.clients.task import cosines


class Recorder:
    """What the tests said of each client, by its name."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = dict(report.user_properties)
        if report.when != "call" or "client" not in said:
            return
        name = str(said["client"])
        if report.skipped:
            assert isinstance(report.longrepr, tuple)
            self.found[name] = {"skipped": report.longrepr[2].removeprefix("Skipped: ")}
        elif "said" in said:
            self.found[name] = {**_short(said["said"]), "wrong": said["wrong"]}
        else:
            self.found[name] = {"broken": report.longreprtext[-2000:]}


def _short(said: Any) -> dict[str, Any]:
    """Without the vectors, of which only their likeness says something."""
    vectors = said["features"].get("embed", {})
    if "gave" in vectors:
        said["features"]["embed"] = {"gave": {"cosines": [round(each, 4) for each in cosines(vectors["gave"])]}}
    return dict(said)


def main(arguments: list[str]) -> int:
    recorder = Recorder()
    tests = str(Path(__file__).with_name("test_programs.py"))
    status = pytest.main(["-p", "no:cacheprovider", "-v", tests, *arguments], plugins=[recorder])
    known = {row["name"]: row for row in page.results()}
    rows = [
        _row(each, recorder.found[each.name]) if each.name in recorder.found else known[each.name] for each in CLIENTS
    ]
    page.write(rows)
    return int(status)


def _row(client: Client, found: dict[str, Any]) -> dict[str, Any]:
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    ran = {"server": f"shimmy {__version__}", "system": system, "day": time.strftime("%Y-%m-%d", time.gmtime())}
    return {"name": client.name, "protocol": client.protocol, **ran, **found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
