"""POST /v1/explain."""

import pytest

from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program


def test_a_request_is_explained_and_not_generated() -> None:
    async def test(server: Live) -> None:
        body = chat_body("!crash SIGKILL 1", temperature=0.5, stop="x", max_tokens=3, stream=True)
        answer = (await server.ask("POST", "/v1/explain", body)).json()
        assert (answer["object"], answer["model"], answer["prompt"]) == ("explanation", "echo", "[!crash SIGKILL 1]>")
        assert (answer["prompt_tokens"], answer["max_tokens"], answer["stop"]) == (19, 3, ["x"])
        assert answer["sampling"] == {"temperature": 0.5}

    run_live(test)


def test_what_is_wrong_is_refused_as_in_a_chat() -> None:
    async def test(server: Live) -> None:
        for fields in ({"temperature": -1}, {"min_tokens": 5, "max_tokens": 1}, {"modalities": ["audio"]}):
            refused = [await server.ask("POST", path, chat_body("hi", **fields)) for path in PATHS]
            assert [answer.status for answer in refused] == [400, 400]
            assert refused[0].error == refused[1].error

    run_live(test)


PATHS = ("/v1/explain", "/v1/chat/completions")
