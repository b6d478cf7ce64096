"""`ps` and `stop`: what they ask a server that runs, and what they say where there is none."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shimmy.core.settings import Settings
from tests.cli.conftest import Invoke
from tests.program import inside
from tests.server.live import Live, chat_body, run_live, with_settings

pytestmark = pytest.mark.program
NOTHING_LOADED = (0, "NAME  SIZE  GPU  CONTEXT  WORKERS  UNTIL\n", "")


async def invoked(invoke: Invoke, server: Live, *arguments: str) -> tuple[int, str, str]:
    result = await asyncio.to_thread(invoke, *arguments, "--url", f"http://127.0.0.1:{server.port}")
    return result.exit_code, result.stdout, result.stderr


def test_what_is_loaded_is_listed_and_unloaded(invoke: Invoke) -> None:
    async def test(server: Live) -> None:
        assert await invoked(invoke, server, "ps") == NOTHING_LOADED
        assert await invoked(invoke, server, "ps", "--json") == (0, "[]\n", "")
        await server.ask("POST", "/v1/chat/completions", chat_body("hi"), x_shimmy_keep_alive="10m")
        code, listed, _ = await invoked(invoke, server, "ps")
        headings, row = listed.splitlines()
        assert headings.split() == ["NAME", "SIZE", "GPU", "CONTEXT", "WORKERS", "UNTIL"]
        name, size, gpu, context, workers, *until = row.split()
        assert (code, name, gpu, context, workers, until) == (0, "echo", "-", "4096", "1", ["in", "10", "min"])
        assert size.endswith("MB")
        [model] = json.loads((await invoked(invoke, server, "ps", "--json"))[1])
        assert model["name"] == "echo:latest" and model["context_length"] == 4096
        await server.ask("POST", "/v1/chat/completions", chat_body("hi"), x_shimmy_keep_alive="-1")
        assert "its memory is needed" in (await invoked(invoke, server, "ps"))[1]
        assert await invoked(invoke, server, "stop", "echo") == (0, "", "")
        assert await invoked(invoke, server, "ps") == NOTHING_LOADED
        assert await invoked(invoke, server, "stop", "echo") == (0, "", "")
        code, _, said = await invoked(invoke, server, "stop", "no/such")
        assert code == 3 and "the model 'no/such' does not exist" in said

    run_live(test)


def test_one_in_use_is_not_stopped(invoke: Invoke) -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", "/v1/chat/completions", chat_body("!stall 1", stream=True))
            await client.head()
            code, _, said = await invoked(invoke, server, "stop", "echo")
            assert (code, said) == (1, "shimmy: the model 'echo' is in use\n")

    run_live(test)


def test_a_key_is_sent(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Live) -> None:
        code, _, said = await invoked(invoke, server, "ps")
        assert code == 1 and "API key" in said
        assert (await invoked(invoke, server, "ps", "--api-key", "right"))[0] == 0
        monkeypatch.setenv("SHIMMY_API_KEY", "right other")
        assert (await invoked(invoke, server, "ps"))[0] == 0

    run_live(test, settings=with_settings(api_keys=("right",)))


def test_the_server_is_found_by_its_ready_file_or_by_where_it_is_bound(
    invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(server: Live) -> None:
        monkeypatch.setenv("SHIMMY_BIND", f"127.0.0.1:{server.port}")
        assert (await asyncio.to_thread(invoke, "ps")).exit_code == 0
        ready = machine / "ready.json"
        monkeypatch.setenv("SHIMMY_READY_FILE", str(ready))
        ready.write_text('{"url": "http://127.0.0.1:1"}')
        result = await asyncio.to_thread(invoke, "ps")
        assert "no server answers at http://127.0.0.1:1 (Connection refused)" in result.stderr
        # What is left of another server is no reason not to look where this one is.
        for content in ("", "[]", "null", '{"pid": 1}'):
            ready.write_text(content)
            assert (await asyncio.to_thread(invoke, "ps")).exit_code == 0

    run_live(test)


@inside("the server's own settings")
def test_a_unix_socket(invoke: Invoke, tmp_path: Path) -> None:
    async def test(server: Any) -> None:
        result = await asyncio.to_thread(invoke, "ps", "--url", f"unix:{tmp_path}/s")
        assert result.exit_code == 0, result.stderr

    from tests.server.inside import serve_inside

    async def main() -> None:
        async with asyncio.timeout(90), serve_inside("echo", settings=Settings(bind=f"unix:{tmp_path}/s")) as server:
            await test(server)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "no server answers at http://127.0.0.1:1"),
        ("127.0.0.1:1", "no server answers at 127.0.0.1:1"),
        ("http://127.0.0.1:many", "is no URL"),
        ("unix:/no/such/socket", "no server answers at unix:/no/such/socket"),
    ],
)
def test_where_there_is_none(invoke: Invoke, url: str, message: str) -> None:
    for arguments in (["ps"], ["stop", "echo"]):
        result = invoke(*arguments, "--url", url)
        assert result.exit_code in (1, 2) and message in result.stderr
        assert result.stdout == ""
