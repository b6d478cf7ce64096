"""Which models stay in memory, as clients see and say it, in every protocol."""

import asyncio
import os
import time
from calendar import timegm
from pathlib import Path
from typing import Any

import pytest

from shimmy.core.errors import ModelFailed
from shimmy.core.ipc import Adapter
from shimmy.core.keys import INFER, ApiKey
from shimmy.models.listing import Model
from shimmy.pool.adapters import Adapters
from tests.fakes.pool import fake_model, scripted_model
from tests.program import inside
from tests.server.live import LIMIT_SECONDS, Inside, Live, chat_body, run_inside, run_live, with_settings

pytestmark = pytest.mark.program

MESSAGES = [{"role": "user", "content": "hi"}]
# The same question in each protocol: path and body.
ROUTES = [
    ("/v1/chat/completions", chat_body("hi")),
    ("/v1/completions", {"model": "echo", "prompt": "hi"}),
    ("/v1/responses", {"model": "echo", "input": "hi"}),
    ("/v1/embeddings", {"model": "echo", "input": "hi"}),
    ("/v1/messages", {"model": "echo", "messages": MESSAGES, "max_tokens": 9}),
    ("/tokenize", {"model": "echo", "content": "hi"}),
    ("/api/chat", {"model": "echo", "messages": MESSAGES, "stream": False}),
    ("/api/embed", {"model": "echo", "input": "hi"}),
    ("/api/generate", {"model": "echo", "prompt": "hi", "max_tokens": 9, "stream": False}),
]
OLLAMAS = [(path, body) for path, body in ROUTES if path in ("/api/chat", "/api/embed")]


async def loaded(server: Live) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = (await server.ask("GET", "/api/ps")).json()["models"]
    return models


async def until_workers(server: Live, num_workers: int) -> None:
    while [each["workers"] for each in await loaded(server)] != [num_workers]:
        await asyncio.sleep(0.01)


async def seconds_left(server: Live) -> float:
    [model] = await loaded(server)
    return timegm(time.strptime(model["expires_at"], "%Y-%m-%dT%H:%M:%SZ")) - time.time()


async def leaves_in(server: Live, seconds: int) -> bool:
    """As of a moment ago, which may be longer ago where others want the processor."""
    return seconds - LIMIT_SECONDS < await seconds_left(server) <= seconds


async def pid_of(server: Live, model: str) -> str:
    content: str = (await server.chat("!pid", model=model)).json()["choices"][0]["message"]["content"]
    return content


async def until_unloaded(server: Live) -> None:
    while await loaded(server):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=[path for path, _ in ROUTES])
def test_a_header_says_how_long_the_model_stays(path: str, body: dict[str, Any]) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", path, body, x_shimmy_keep_alive="10m")
        assert answer.status == 200, answer.body
        assert await leaves_in(server, 600)
        # The next request says nothing, and what was said holds on; the header is no longer heard.
        assert (await server.ask("POST", path, body)).status == 200
        assert await leaves_in(server, 600)
        assert (await server.ask("POST", path, body, x_shimmy_keep_alive="-1")).status == 200
        assert await seconds_left(server) > 1e9
        assert (await server.ask("POST", path, body, x_shimmy_keep_alive="0")).status == 200
        await until_unloaded(server)
        answer = await server.ask("POST", path, body, x_shimmy_keep_alive="soon")
        assert answer.status == 400 and b"x-shimmy-keep-alive" in answer.body

    run_live(test)


@pytest.mark.parametrize(("path", "body"), OLLAMAS, ids=[path for path, _ in OLLAMAS])
def test_a_field_of_ollama_s_says_it_too_and_counts_more(path: str, body: dict[str, Any]) -> None:
    async def test(server: Live) -> None:
        await server.ask("POST", path, body | {"keep_alive": "1h30m"}, x_shimmy_keep_alive="5")
        assert await leaves_in(server, 5400)
        await server.ask("POST", path, body | {"keep_alive": 300})
        assert await leaves_in(server, 300)
        await server.ask("POST", path, body | {"keep_alive": 0})
        await until_unloaded(server)

    run_live(test)


def test_a_stream_keeps_its_model_until_it_is_over() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request(
                "POST", "/v1/chat/completions", chat_body("!stall 1", stream=True), x_shimmy_keep_alive="0"
            )
            await client.head()
            assert await server.say("!active") == "1"
            await asyncio.sleep(0.05)
            assert len(await loaded(server)) == 1
        await until_unloaded(server)

    run_live(test)


def test_loading_says_how_long_and_who_leaves_first() -> None:
    async def test(server: Live) -> None:
        body = {"keep_alive": "1h", "priority": "low", "pinned": False}
        assert (await server.ask("POST", "/api/models/echo/load", body)).status == 200
        assert await leaves_in(server, 3600)
        assert (await server.ask("POST", "/api/models/echo/load", {"pinned": True})).status == 200
        assert await seconds_left(server) > 1e9
        for wrong in ({"priority": "urgent"}, {"keep_alive": "soon"}, {"pinned": 1}):
            answer = await server.ask("POST", "/api/models/echo/load", wrong)
            assert answer.status == 400 and next(iter(wrong)) in answer.json()["error"]

    run_live(test)


def test_what_says_how_a_model_is_kept_loads_nothing_that_is_loaded() -> None:
    async def test(server: Live) -> None:
        async def load(**body: Any) -> Any:
            answer = await server.ask("POST", "/api/models/echo/load", body)
            assert answer.status == 200, answer.body
            return answer.json()["workers"]

        async def num_loads() -> str:
            metrics = (await server.ask("GET", "/metrics", accept="text/plain")).body.decode()
            return metrics.partition('shimmy_model_loads_total{outcome="ok"} ')[2].split("\n")[0]

        first = await server.say("!pid")
        said: list[dict[str, Any]] = [{"pinned": True}, {"pinned": False, "priority": "high"}, {"workers": 1}]
        for body in (*said, {"keep_alive": "1h"}):
            assert await load(**body) == 1
        assert 3590 < await seconds_left(server) <= 3600
        assert (await server.say("!pid"), await num_loads()) == (first, "1")
        # One that is to leave does, and does not come back for that.
        await load(keep_alive=0)
        await until_unloaded(server)
        assert await num_loads() == "1"
        # Who says nothing of that has it loaded anew.
        second = await server.say("!pid")
        await load()
        assert await server.say("!pid") != second

    run_live(test)


def test_who_leaves_first_is_for_administrators_to_say() -> None:
    async def test(server: Live) -> None:
        async def load(key: str, **body: Any) -> int:
            return (await server.ask("POST", "/api/models/echo/load", body, x_api_key=key)).status

        for body in ({"pinned": True}, {"workers": 2}, {"priority": "high"}, {"pinned": False, "keep_alive": "1h"}):
            assert await load("user", **body) == 403
            assert not (await server.ask("GET", "/api/ps", x_api_key="user")).json()["models"]
            assert await load("boss", **body) == 200
            assert (await server.ask("POST", "/api/models/echo/unload", x_api_key="boss")).status == 200
        assert await load("user", keep_alive="1h") == 200
        assert (await server.ask("POST", "/api/models/echo/load", x_api_key="user")).status == 200

    run_live(test, settings=with_settings(api_keys=(ApiKey.of("boss"), ApiKey.of("user", scopes=INFER))))


def test_loading_again_brings_a_new_process_and_the_status_says_so() -> None:
    async def test(server: Live) -> None:
        first = await server.say("!pid")
        assert (await server.ask("POST", "/api/models/echo/load")).status == 200
        status = (await server.ask("GET", "/api/models/echo/status")).json()
        assert (status["status"], status["workers"], status["switch"]) == ("ready", 1, {"state": "done"})
        assert await server.say("!pid") != first
        metrics = (await server.ask("GET", "/metrics", accept="text/plain")).body.decode()
        assert 'shimmy_model_switches_total{outcome="ok"} 1' in metrics
        assert 'shimmy_model_loads_total{outcome="ok"} 2' in metrics

    run_live(test)


@inside("the program's workers have no fake models to break")
def test_a_version_that_is_broken_is_told_in_the_answer_and_in_the_status(tmp_path: Path) -> None:
    async def test(server: Inside) -> None:
        first = await pid_of(server, "m")
        scripted_model("m", tmp_path, "fail model_invalid no such tensor")
        answer = await server.ask("POST", "/api/models/m/load")
        assert answer.status == 422
        assert answer.json()["error"] == "no such tensor; the model stays as it was loaded"
        switch = (await server.ask("GET", "/api/models/m/status")).json()["switch"]
        assert switch == {"state": "failed", "reason": "no such tensor"}
        assert await pid_of(server, "m") == first
        metrics = (await server.ask("GET", "/metrics", accept="text/plain")).body.decode()
        assert 'shimmy_model_switches_total{outcome="failed"} 1' in metrics

    run_inside(test, scripted_model("m", tmp_path, "ready"))


class NoAdapters(Adapters):
    def __init__(self) -> None:
        """There were some when the model was loaded."""

    def of(self, model: Model) -> tuple[Adapter, ...]:
        raise ModelFailed("the adapter is gone")


@inside("it takes a part of the server")
def test_what_says_how_a_model_is_kept_holds_where_it_could_not_be_loaded_now() -> None:
    async def test(server: Inside) -> None:
        first = await server.say("!pid")
        server.inference.models._placement._adapters = NoAdapters()
        answer = await server.ask("POST", "/api/models/echo/load", {"keep_alive": "1h"})
        assert answer.status >= 400 and "the adapter is gone" in answer.body.decode()
        assert await leaves_in(server, 3600) and await server.say("!pid") == first

    run_inside(test)


@inside("the program's workers have no fake models to break")
def test_what_says_how_a_model_is_kept_brings_its_new_version(tmp_path: Path) -> None:
    async def test(server: Inside) -> None:
        first = await pid_of(server, "m")
        scripted_model("m", tmp_path, "ready")
        assert (await server.ask("POST", "/api/models/m/load", {"pinned": True})).status == 200
        assert await pid_of(server, "m") != first

    scripted_model("m", tmp_path, "ready")
    run_inside(test, folder=tmp_path)


@inside("it looks for changes itself")
def test_a_file_that_changed_is_followed_and_one_that_is_gone_ends_its_worker(tmp_path: Path) -> None:
    async def test(server: Inside) -> None:
        server.inference.models.follow_changes()
        scan = server.inference.models.catalog.refresh
        await asyncio.to_thread(scan)
        first = await pid_of(server, "m")
        scripted_model("m", tmp_path, "ready")
        await asyncio.to_thread(scan)
        # It counts once it has been the same for a while.
        while (second := await pid_of(server, "m")) == first:
            await asyncio.to_thread(scan)
        (tmp_path / "m.gguf").unlink()
        await asyncio.to_thread(scan)
        while Path(f"/proc/{second}").exists():
            await asyncio.sleep(0.01)
        assert (await server.ask("POST", "/v1/chat/completions", chat_body("hi", model="m"))).status == 404

    scripted_model("m", tmp_path, "ready")
    run_inside(test, folder=tmp_path)


@inside("it looks for changes itself")
def test_a_model_whose_file_is_broken_is_listed_everywhere_while_it_answers(tmp_path: Path) -> None:
    async def test(server: Inside) -> None:
        server.inference.models.follow_changes()
        scan = server.inference.models.catalog.refresh
        await asyncio.to_thread(scan)
        first = await pid_of(server, "m")
        broken = tmp_path / "m.new"
        broken.write_bytes((tmp_path / "m.gguf").read_bytes()[:-40])
        # It counts at once.
        os.utime(broken, (1000, 1000))
        broken.replace(tmp_path / "m.gguf")
        await asyncio.to_thread(scan)
        assert await pid_of(server, "m") == first
        entry = (await server.ask("GET", "/v1/models/m")).json()
        assert (entry["status"], entry["state"]) == ("invalid", "ready") and entry["reason"]
        anthropic = {"anthropic_version": "2023-06-01"}
        assert (await server.ask("GET", "/v1/models/m", **anthropic)).json()["id"] == "m"
        for path, list_name, name, headers in (
            ("/v1/models", "data", "id", {}),
            ("/v1/models", "data", "id", anthropic),
            ("/api/models", "models", "name", {}),
            ("/api/tags", "models", "model", {}),
            ("/api/ps", "models", "model", {}),
        ):
            listed = (await server.ask("GET", path, **headers)).json()[list_name]
            assert [each[name].removesuffix(":latest") for each in listed] == ["m"]

    scripted_model("m", tmp_path, "ready")
    run_inside(test, folder=tmp_path)


@inside("its models have no size")
def test_what_does_not_fit_is_refused_with_what_it_needs_and_what_there_is() -> None:
    async def test(server: Inside) -> None:
        answer = await server.ask("POST", "/v1/chat/completions", chat_body("hi"))
        assert answer.status == 503 and answer.error["code"] == "insufficient_memory"
        assert answer.error["message"] == (
            "model 'echo' needs 17 MiB of memory, and 1 MiB of 1 MiB are free:"
            " raise --memory-budget or serve with a smaller --ctx"
        )
        assert "retry-after" not in answer.headers and answer.headers["x-should-retry"] == "false"

    run_inside(test, fake_model("echo"), memory_limit_bytes=1 << 20)


def test_a_load_says_how_many_workers_a_model_has() -> None:
    async def test(server: Live) -> None:
        path = "/api/models/echo"
        assert (await server.ask("GET", f"{path}/status")).json() == {
            "model": "echo",
            "status": "unloaded",
            "loaded": False,
        }
        assert (await server.ask("POST", f"{path}/load", {"workers": 2})).json()["workers"] == 2
        assert (await server.ask("GET", f"{path}/status")).json()["workers"] == 2
        metrics = (await server.ask("GET", "/metrics", accept="text/plain")).body.decode()
        assert "\nshimmy_workers 2\n" in metrics
        slots = (await server.ask("GET", "/slots?model=echo")).json()
        # It is loaded anew with one, and with the same number when nothing is said.
        assert (await server.ask("POST", f"{path}/load", {"workers": 1})).status == 200
        await until_workers(server, 1)
        assert len(slots) == 2 * len((await server.ask("GET", "/slots?model=echo")).json())
        assert (await server.ask("POST", f"{path}/load")).status == 200
        await until_workers(server, 1)
        for wrong in (0, 65, "2"):
            answer = await server.ask("POST", f"{path}/load", {"workers": wrong})
            assert answer.status == 400 and b"workers" in answer.body

    run_live(test)
