"""/metrics, /diag and /health: the counts are those of what was answered."""

import re
from pathlib import Path
from typing import Any

import pytest

from shimmy.server.metrics import METRICS, endpoint_of
from tests.program import inside
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def samples(server: Live) -> dict[str, float]:
    answer = await server.ask("GET", "/metrics", accept="application/openmetrics-text;q=0.5,text/plain;version=0.0.4")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_page_lists_them_all() -> None:
    rows = re.findall(r"^\| `(shimmy_\w+)` \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {name: (kind, meaning) for name, kind, meaning in rows} == METRICS


@inside("the program was asked before")
def test_requests_tokens_and_times_are_counted() -> None:
    async def test(server: Live) -> None:
        await server.chat("one two")
        await server.chat("one two three", model="nope")
        await server.ask("GET", "/v1/models/echo")
        await server.ask("GET", "/nope/1")
        await server.ask("GET", "/nope/2")
        found = await samples(server)
        count = 'shimmy_requests_total{endpoint="%s",status="%d"}'
        assert found[count % ("/v1/chat/completions", 200)] == 1
        assert found[count % ("/v1/chat/completions", 404)] == 1
        assert found[count % ("/v1/models/{id}", 200)] == 1
        assert found[count % ("other", 404)] == 2
        assert found["shimmy_generated_tokens_total"] == 2
        assert found["shimmy_time_to_first_token_seconds_count"] == 1
        assert found["shimmy_request_duration_seconds_count"] == 5
        assert found['shimmy_request_duration_seconds_bucket{le="+Inf"}'] == 5
        assert found['shimmy_models{state="ready"}'] == 1
        assert found["shimmy_requests_active"] == 0 and found["shimmy_uptime_seconds"] > 0
        names = {name for name in METRICS if any(sample.startswith(name) for sample in found)}
        # Those of GPUs come with the first model that is to have layers there: tests/cli/test_gpu_memory.py.
        assert names == {name for name in METRICS if not name.startswith("shimmy_gpu_")}

    run_live(test)


@inside("the program finds its model elsewhere")
def test_the_original_s_keys() -> None:
    async def test(server: Live) -> None:
        for accept in ("*/*", "application/json"):
            report = (await server.ask("GET", "/metrics", accept=accept)).json()
            assert report["service"] == "shimmy" and report["gpu_detected"] is None
            assert report["models"]["total_count"] == 1
        health = (await server.ask("GET", "/health")).json()
        assert health["status"] == "ok" and health["models"] == {"total": 1, "discovered": 1, "manual": 0}
        assert 0 <= health["uptime_seconds"] < 100
        diagnosis = (await server.ask("GET", "/diag")).json()
        assert set(diagnosis) == {"os", "cores", "mem_total_mb"} and diagnosis["cores"] >= 1

    run_live(test)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "other"),
        ({"route": "/v1/models/{id:path}"}, "/v1/models/{id}"),
        ({"route": "/api/models/{name:path}/load"}, "/api/models/{name}/load"),
        ({"route": "/health"}, "/health"),
    ],
)
def test_an_endpoint_is_the_pattern_of_its_route(state: Any, expected: str) -> None:
    assert endpoint_of({"path": "/x", "state": state}) == expected


def test_an_endpoint_has_no_names_of_models() -> None:
    """Not of models either that are called what stands in the path before."""

    async def test(server: Live) -> None:
        for path in ("/v1/models/v1", "/v1/models/echo", "/v1/models/no/such", "/api/models/a/status", "/nope"):
            await server.ask("GET", path)
        text = (await server.ask("GET", "/metrics", accept="text/plain")).body.decode()
        found = set(re.findall(r'requests_total\{endpoint="([^"]*)"', text))
        assert found - {"/health"} == {"/v1/models/{id}", "/api/models/{name}/status", "other"}

    run_live(test, "v1", "a", "echo")
