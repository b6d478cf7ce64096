"""Every client of the roster, as it comes from its registry, against the real program; docs/protocols.md shows it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import environment
from tests.clients.environment import Unreachable
from tests.clients.roster import CLIENTS, LIMIT_SECONDS, Client, failures, run
from tests.models import minilm
from tests.program import DEMO, Program, program

# What some clients need besides the time that they take: their packages are fetched first.
pytestmark = [pytest.mark.model, pytest.mark.program, pytest.mark.timeout(LIMIT_SECONDS + environment.LIMIT_SECONDS)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """With a chat model and one for embeddings."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models").mkdir()
    for path in (DEMO, minilm.path()):
        (folder / "models" / path.name).symlink_to(path.resolve())
    with program(folder) as running:
        yield running


def marked(client: Client) -> object:
    return pytest.param(client, id=client.name, marks=[] if client.is_everyday else [pytest.mark.clients])


@pytest.mark.parametrize("client", [marked(each) for each in CLIENTS])
def test_a_client_has_what_it_asks_for(
    client: Client, server: Program, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("client", client.name)
    try:
        said = run(client, server.url, tmp_path)
    except Unreachable as why:
        pytest.skip(str(why))
    wrong = failures(client, said)
    record_property("said", said)
    record_property("wrong", wrong)
    assert wrong == {}
