"""One real server for all client tests of a file; it must not outlive them, since other files count processes."""

from collections.abc import Iterator

import pytest

from tests.program import DEMO, Program, program


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program(tmp_path_factory.mktemp("server"), "--model-path", str(DEMO), "--ctx", "2048") as running:
        yield running
