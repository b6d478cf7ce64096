"""One real server for all client tests of a process."""

from collections.abc import Iterator

import pytest

from tests.program import DEMO, Program, program


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program(tmp_path_factory.mktemp("server"), "--model-path", str(DEMO), "--ctx", "2048") as running:
        yield running
