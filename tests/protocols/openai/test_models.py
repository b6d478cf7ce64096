"""GET /v1/models and GET /v1/models/{id}."""

from typing import Any
from urllib.parse import quote

import msgspec

from shimmy.models.catalog import Facts
from tests.fakes.pool import FakeCatalog, fake_model
from tests.server.live import Live, run_live

FACTS = Facts(
    architecture="llama",
    name="A model",
    quantization="Q4_K_M",
    num_parameters=7,
    context_length=131072,
    num_layers=2,
    embedding_length=64,
    vocabulary_size=256,
    has_chat_template=True,
    tokenizer_model="gpt2",
)


def listed(answer: Any) -> dict[str, Any]:
    content = answer.json()
    assert content["object"] == "list"
    return {entry["id"]: entry for entry in content["data"]}


def test_what_is_listed() -> None:
    async def test(server: Live) -> None:
        models = listed(await server.ask("GET", "/v1/models"))
        assert list(models) == ["broken", "echo", "known"]
        assert models["echo"] == {
            "id": "echo",
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "shimmy",
            "status": "valid",
            "reason": None,
            "state": "unloaded",
            "source": "models dir",
            "size": 1000,
            "quantization": None,
            "num_parameters": None,
            "context_length": None,
            "training_context_length": None,
            "template_source": None,
        }
        assert (models["broken"]["status"], models["broken"]["reason"]) == ("invalid", "it is truncated")
        known = models["known"]
        assert (known["quantization"], known["num_parameters"]) == ("Q4_K_M", 7)
        assert (known["training_context_length"], known["template_source"]) == (131072, "gguf")

    known = msgspec.structs.replace(fake_model("known"), facts=FACTS)
    run_live(test, "echo", fake_model("broken", invalid="it is truncated"), known)


def test_a_loaded_model_says_what_it_is_loaded_with() -> None:
    async def test(server: Live) -> None:
        await server.chat("hi")
        entry = (await server.ask("GET", "/v1/models/echo")).json()
        assert (entry["state"], entry["context_length"], entry["template_source"]) == ("ready", 4096, "chatml")

    run_live(test)


def test_one_model_by_any_id() -> None:
    ids = ["llama3.2:1b", "org/name", "hf.co/org/name:Q4_K_M", "a model", "ä%2Fb", "models", "a?b#c"]

    async def test(server: Live) -> None:
        for id in ids:
            for path in {quote(id), quote(id, safe=""), quote(id, safe="/:")}:
                answer = await server.ask("GET", f"/v1/models/{path}")
                assert (answer.status, answer.json()["id"]) == (200, id)

    run_live(test, *ids)


def test_models_that_are_not_there_or_not_fit() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("GET", "/v1/models/nope")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        answer = await server.ask("GET", "/v1/models/broken")
        assert (answer.status, answer.error["code"]) == (422, "model_invalid")
        assert "it is truncated" in answer.error["message"]

    run_live(test, fake_model("broken", invalid="it is truncated"))


def test_a_file_that_came_later_is_listed() -> None:
    catalog = FakeCatalog()

    async def test(server: Live) -> None:
        catalog.available.append(fake_model("late"))
        assert list(listed(await server.ask("GET", "/v1/models"))) == ["late"]

    run_live(test, catalog=catalog)


def test_no_models_is_an_empty_list() -> None:
    async def test(server: Live) -> None:
        assert listed(await server.ask("GET", "/v1/models")) == {}

    run_live(test, catalog=FakeCatalog())
