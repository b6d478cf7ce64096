"""POST /api/create and /api/blobs: what is sent becomes a model, and what is none is refused."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.models.stored import StoreSource
from tests.fakes import gguf_writer
from tests.fakes.pool import START
from tests.server.live import Inside, Live, run_inside, with_settings

ALLOWED = with_settings(allow_pull=True)
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Of one model, "tiny", and an empty store."""
    store = str(tmp_path / "store")
    monkeypatch.setenv("SHIMMY_STORE", store)
    gguf_writer.model(tokenizer__chat_template="{{ messages }}").write(tmp_path / "models" / "tiny.gguf")
    return Catalog([Folder("models", str(tmp_path / "models")), StoreSource({"SHIMMY_STORE": store})])


async def created(server: Live, body: Any) -> list[Any]:
    answer = await server.ask("POST", "/api/create", body)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


def test_a_model_of_another_one(catalog: Catalog) -> None:
    async def test(server: Live) -> None:
        body = {"model": "mario", "from": "tiny", "system": "Be Mario.", "parameters": {"top_k": 7}, "license": "MIT"}
        assert (await created(server, body))[-1] == {"status": "success"}
        shown = (await server.ask("POST", "/api/show", {"model": "mario"})).json()
        assert (shown["system"], shown["parameters"], shown["license"]) == ("Be Mario.", "top_k 7", "MIT")
        asked = {"model": "mario", "messages": [{"role": "user", "content": "!request"}], "stream": False}
        answer = (await server.ask("POST", "/api/chat", asked)).json()
        assert json.loads(answer["message"]["content"])["prompt"]["messages"][0]["content"] == "Be Mario."
        whole = await server.ask("POST", "/api/create", body | {"model": "luigi", "stream": False})
        assert whole.json() == {"status": "success"}

    run_inside(test, catalog=catalog, settings=ALLOWED)


def test_a_model_of_a_file_that_is_sent(catalog: Catalog, tmp_path: Path) -> None:
    content = gguf_writer.model("other").write(tmp_path / "other.gguf").read_bytes() + bytes(3 << 20)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"

    async def test(server: Live) -> None:
        assert (await server.ask("HEAD", f"/api/blobs/{digest}")).status == 404
        wrong = await server.ask("POST", f"/api/blobs/{DIGEST}", content)
        assert wrong.status == 400 and "has the digest" in wrong.json()["error"]
        assert (await server.ask("POST", f"/api/blobs/{digest}", content)).status == 201
        assert (await server.ask("POST", f"/api/blobs/{digest}", content)).status == 200
        assert (await server.ask("HEAD", f"/api/blobs/{digest}")).status == 200
        await created(server, {"model": "other", "files": {"other.gguf": digest}})
        names = [each["name"] for each in (await server.ask("GET", "/api/tags")).json()["models"]]
        assert names == ["other:latest", "tiny:latest"]
        assert list((tmp_path / "store/partial").iterdir()) == []

    # More than a body may have elsewhere.
    run_inside(test, catalog=catalog, settings=with_settings(allow_pull=True, max_body_bytes=1 << 20))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "model"),
        ({"model": "mine"}, 400, "from"),
        ({"model": "mine", "from": "tiny", "files": {"a.gguf": DIGEST}}, 400, "from"),
        ({"model": "mine", "from": "nothing"}, 404, "does not exist"),
        ({"model": "mine", "from": "tiny", "template": "{{ .Prompt }}"}, 400, "template"),
        ({"model": "mine", "from": "tiny", "quantize": "q9_9"}, 400, "quantize: 'q9_9' is none of"),
        (
            {"model": "mine", "from": "tiny", "quantization": "iq2_xs"},
            400,
            "quantize: IQ2_XS takes an importance matrix",
        ),
        ({"model": "mine", "modelfile": "FROM tiny"}, 400, "modelfile"),
        ({"model": "mine", "from": "tiny", "parameters": {"temperature": "hot"}}, 400, "parameters.temperature"),
        ({"model": "mine", "from": "tiny", "parameters": {"stop": [1]}}, 400, "parameters.stop"),
        ({"model": "mine", "from": "tiny", "parameters": {"stop": ["x"] * 17}}, 400, "parameters.stop"),
        ({"model": "mine", "files": {"a.gguf": "sha256:../../etc/passwd"}}, 400, "files.a.gguf"),
        ({"model": "mine", "files": {"a.gguf": DIGEST}}, 400, "no blob"),
        ({"model": "../mine", "from": "tiny"}, 400, "no name"),
    ],
)
def test_what_makes_no_model(catalog: Catalog, body: Any, status: int, said: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/api/create", body | {"stream": False})
        assert answer.status == status and said in answer.json()["error"], answer.body

    run_inside(test, catalog=catalog, settings=ALLOWED)


@pytest.fixture
def fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that write files, too."""
    monkeypatch.setattr("shimmy.pool.process.worker_argv", lambda: [sys.executable, "-c", START])


def scripted(tmp_path: Path, order: str) -> None:
    """A model "scripted" that tells the fake worker how quantizing it goes."""
    gguf_writer.model(general__file_type=1, fake__load=order).write(tmp_path / "models" / "scripted.gguf")


QUANTIZED = {"model": "mine", "from": "scripted", "quantize": "q8_0"}


@pytest.mark.parametrize(
    ("order", "code", "said"),
    [
        ("crash SIGKILL", "internal_error", "did not write the whole file (SIGKILL"),
        ("fail insufficient_storage the disk is full", "insufficient_storage", "the disk is full"),
        # What the fake worker writes then is no model.
        ("ready", "model_invalid", "what was made cannot be served"),
    ],
)
def test_weights_that_cannot_be_written(
    catalog: Catalog, tmp_path: Path, fake_workers: None, order: str, code: str, said: str
) -> None:
    """Nothing is left of them, and the model of that name is what it was."""
    scripted(tmp_path, order)

    async def test(server: Inside) -> None:
        await created(server, {"model": "mine", "from": "tiny", "system": "Be Mario."})
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
        first, *_, last = await created(server, QUANTIZED)
        size = (tmp_path / "models" / "scripted.gguf").stat().st_size
        assert first == {"status": "quantizing F16 model to Q8_0", "total": size, "completed": 0}
        assert last["code"] == code and said in last["error"]
        whole = await server.ask("POST", "/api/create", QUANTIZED | {"stream": False})
        assert whole.status >= 400 and whole.json()["code"] == code
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
        assert (await server.ask("POST", "/api/show", {"model": "mine"})).json()["system"] == "Be Mario."

    run_inside(test, catalog=catalog, settings=ALLOWED)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_weights_are_written(
    catalog: Catalog, tmp_path: Path, fake_workers: None, stream: bool
) -> None:
    """One at a time; the place is free as soon as the client has left, and nothing remains."""
    scripted(tmp_path, "hold")

    async def test(server: Inside) -> None:
        async with server.connect() as client:
            await client.request("POST", "/api/create", QUANTIZED | {"stream": stream})
            while not list(tmp_path.glob("store/partial/.work-*/unfinished")):
                await asyncio.sleep(0.005)
            other = await server.ask("POST", "/api/create", QUANTIZED | {"model": "other"})
            assert (other.status, other.json()["code"]) == (429, "queue_full")
            assert int(other.headers["retry-after"]) > 0
            assert (await created(server, {"model": "plain", "from": "tiny"}))[-1] == {"status": "success"}
        while list(tmp_path.glob("store/partial/*")):
            await asyncio.sleep(0.005)
        (tmp_path / "models" / "scripted.gguf.go").touch()
        while (again := await server.ask("POST", "/api/create", QUANTIZED | {"stream": False})).status == 429:
            await asyncio.sleep(0.005)
        assert "what was made cannot be served" in again.json()["error"]

    run_inside(test, catalog=catalog, settings=ALLOWED)


def test_a_server_that_leaves_while_weights_are_written(catalog: Catalog, tmp_path: Path, fake_workers: None) -> None:
    scripted(tmp_path, "hold")

    async def test(server: Inside) -> None:
        asked = asyncio.create_task(created(server, QUANTIZED))
        while not list(tmp_path.glob("store/partial/.work-*/unfinished")):
            await asyncio.sleep(0.005)
        server.inference.closing.set()
        assert (await asked)[-1]["code"] == "server_draining"
        assert list(tmp_path.glob("store/partial/*")) == []

    run_inside(test, catalog=catalog, settings=ALLOWED)


def test_a_digest_is_a_digest(catalog: Catalog) -> None:
    async def test(server: Live) -> None:
        for digest in ("sha256:00", "sha256:" + "A" * 64, "x" * 64):
            answer = await server.ask("POST", f"/api/blobs/{digest}", b"x")
            assert answer.status == 400 and "digest" in answer.json()["error"]

    run_inside(test, catalog=catalog, settings=ALLOWED)


HALF = f"POST /api/blobs/{DIGEST} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nhalf".encode()


def test_a_blob_that_stops_coming(catalog: Catalog, tmp_path: Path) -> None:
    """What came of it is gone."""

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.send(HALF)
            answer = await client.head()
            assert answer.status == 408
        assert list((tmp_path / "store/partial").iterdir()) == []

    run_inside(test, catalog=catalog, settings=with_settings(allow_pull=True, stall_seconds=0.2))


def test_a_blob_of_which_hardly_anything_comes(catalog: Catalog) -> None:
    """A byte now and then keeps no place for ever."""

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.send(HALF.replace(b"Length: 8", b"Length: 10000"))
            answered = asyncio.create_task(client.head())
            for _ in range(500):
                if answered.done():
                    break
                await client.send(b"x")
                await asyncio.wait([answered], timeout=0.02)
            assert answered.done() and answered.result().status == 408

    run_inside(test, catalog=catalog, settings=with_settings(allow_pull=True, stall_seconds=0.3))


def test_a_client_that_leaves_within_a_blob(catalog: Catalog, tmp_path: Path) -> None:
    async def test(server: Inside) -> None:
        async with server.connect() as client:
            await client.send(HALF)
            while not list(tmp_path.glob("store/partial/*")):
                await asyncio.sleep(0.005)
        while list(tmp_path.glob("store/partial/*")):
            await asyncio.sleep(0.005)

    run_inside(test, catalog=catalog, settings=ALLOWED)
