"""The matrix in docs/protocols.md: made of results.json, and of nothing else."""

import json
from pathlib import Path
from typing import Any

from tests.clients.task import MEANINGS

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
BEGIN, END = "<!-- made by make clients-test: begin -->\n", "<!-- made by make clients-test: end -->\n"


def matrix(rows: list[dict[str, Any]]) -> str:
    head = ["client", "version", "API", *MEANINGS]
    table = [head, ["---"] * len(head), *([each["name"], *_cells(each)] for each in rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    lines += ["", "What the columns say: that the client", ""]
    lines += [f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items()]
    lines += ["", "Why cells are empty:", ""]
    lines += [f"- {each['name']}: {_absent(each['absent'])}" for each in rows if each.get("absent")]
    lines += ["", f"Run with {_all(rows, 'server')} on {_all(rows, 'system')}, {_all(rows, 'day')}."]
    return "\n".join(lines) + "\n"


def _all(rows: list[dict[str, Any]], field: str) -> str:
    return " and ".join(sorted({str(row[field]) for row in rows}))


def _cells(client: dict[str, Any]) -> list[str]:
    if "skipped" in client:
        return ["", client["protocol"], f"skipped: {client['skipped']}", *[""] * (len(MEANINGS) - 1)]
    if "broken" in client:
        return ["", client["protocol"], "did not run", *[""] * (len(MEANINGS) - 1)]
    return [client["version"], client["protocol"], *(_cell(client, name) for name in MEANINGS)]


def _cell(client: dict[str, Any], feature: str) -> str:
    if feature in client["wrong"]:
        return "**no**"
    return "yes" if feature in client["features"] else ""


def _absent(reasons: dict[str, str]) -> str:
    """By reason, each with the features that it is the reason for."""
    found: dict[str, list[str]] = {}
    for feature in sorted(reasons, key=list(MEANINGS).index):
        found.setdefault(reasons[feature], []).append(f"`{feature}`")
    return "; ".join(f"{', '.join(features)}: {reason}" for reason, features in found.items())


def shown() -> str:
    """What the page has of it now."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


def results() -> list[dict[str, Any]]:
    """What was found last of each client."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    return found


def write(rows: list[dict[str, Any]]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(before + BEGIN + matrix(rows) + END + rest.partition(END)[2])
