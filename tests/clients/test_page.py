"""The matrix in docs/protocols.md is what was found, of every client that there is."""

import copy

import pytest

from tests.clients import page
from tests.clients.roster import CLIENTS, failures
from tests.clients.task import CHECKS


def test_the_page_shows_what_was_found() -> None:
    assert page.shown() == page.matrix(page.results())


def test_all_clients_were_run() -> None:
    assert [row["name"] for row in page.results()] == [client.name for client in CLIENTS]


def test_what_failed_or_did_not_run_can_be_seen() -> None:
    row = {"name": "a", "protocol": "b", "server": "s", "system": "s", "day": "d"}
    ran = {
        **row,
        "version": "1",
        "features": {"chat": {}, "tools": {}},
        "absent": {"embed": "none"},
        "wrong": {"chat": ""},
    }
    lines = page.matrix([ran, {**row, "skipped": "PyPI is unreachable"}, {**row, "broken": "..."}]).splitlines()
    cells = dict(zip(lines[0].split(" | "), lines[2].split(" | "), strict=True))
    assert (cells["chat"], cells["tools"], cells["embed"]) == ("**no**", "yes", "")
    assert "skipped: PyPI is unreachable" in lines[3] and "did not run" in lines[4]
    assert "- a: `embed`: none" in lines


@pytest.mark.parametrize("feature", CHECKS)
def test_what_a_client_gave_is_looked_at(feature: str) -> None:
    """Of each feature anything else than what was found fails, and so does nothing at all."""
    client = CLIENTS[0]
    (found,) = [row for row in page.results() if row["name"] == client.name]
    said = {"features": copy.deepcopy(found["features"]), "absent": {}}
    if feature != "embed":
        assert feature not in failures(client, said)
    for wrong in ("", None, [], {}, ["x"], {"class": "Other", "status": 404, "message": "no-such-model"}):
        said["features"][feature] = {"gave": wrong}
        assert feature in failures(client, said)
    said["features"][feature] = {"raised": "TypeError: x"}
    assert failures(client, said)[feature] == "TypeError: x"
    del said["features"][feature]
    assert failures(client, said)[feature] == "was not tried"
