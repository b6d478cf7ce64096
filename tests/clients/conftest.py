"""One real server for all client tests of a file, and a client of OpenAI's for each test. Neither outlives them: other
files count processes, and a socket that is left to the garbage collector may fail a test of anywhere."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.program import DEMO, Program, program


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program(tmp_path_factory.mktemp("server"), "--model-path", str(DEMO), "--ctx", "2048") as running:
        yield running


@pytest.fixture
def client(server: Program) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made
