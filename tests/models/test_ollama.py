"""An Ollama store: its names, and manifests that cannot be trusted."""

import json
from pathlib import Path
from typing import Any

import pytest

from shimmy.models.catalog import Catalog
from shimmy.models.folders import Found
from shimmy.models.ollama import MAX_MANIFEST_BYTES, OllamaStore
from tests.fakes.gguf_writer import model
from tests.fakes.ollama_store import put_model

HEX = "0123456789abcdef" * 4
MODEL = "application/vnd.ollama.image.model"


def layer(digest: str = f"sha256:{HEX}", kind: str = "model") -> dict[str, Any]:
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 7}


def manifest(store: Path, name: str, content: Any) -> None:
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    blob = tmp_path / "blobs" / f"sha256-{HEX}"
    blob.parent.mkdir()
    blob.write_bytes(b"GGUF")
    return tmp_path


def find(store: Path) -> list[Found]:
    return list(OllamaStore(str(store)).find())


def test_finds_models_by_the_names_ollama_gives_them(store: Path) -> None:
    content = {"schemaVersion": 2, "layers": [layer(kind="template"), layer(), layer(kind="projector")]}
    manifest(store, "hf.co/org/repo/Q4_K_M", content)
    manifest(store, "registry.ollama.ai/library/llama3.2/1b", content)
    manifest(store, "registry.ollama.ai/someone/model/latest", content)
    blob = str(store / "blobs" / f"sha256-{HEX}")
    assert find(store) == [
        Found("hf.co/org/repo:Q4_K_M", (blob,)),
        Found("llama3.2:1b", (blob,)),
        Found("someone/model:latest", (blob,)),
    ]


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        f"sha256:{HEX}/../x",
        f"sha256:{HEX}\n",
        f"sha256:{HEX.upper()}",
        f"sha256-{HEX}",
        f"sha512:{HEX}",
        "",
    ],
)
def test_a_digest_is_64_hex_digits_or_nothing(digest: str, store: Path) -> None:
    manifest(store, "registry.ollama.ai/library/x/latest", {"layers": [layer(digest)]})
    [only] = find(store)
    assert only.paths == () and only.reason and "no sha256 digest" in only.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "Input data was truncated"),
        (b"\xff\xff", "malformed"),
        ({"layers": 3}, "Expected `array`, got `int`"),
        ({"layers": [{"mediaType": MODEL}]}, "missing required field `digest`"),
        (b"[" * 5000, "Expected `object`"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "longer than 1048576 bytes"),
    ],
)
def test_a_broken_manifest_is_said(content: Any, reason: str, store: Path) -> None:
    manifest(store, "registry.ollama.ai/library/x/latest", content)
    [only] = find(store)
    assert only.name == "x:latest" and only.reason and reason in only.reason


def test_a_missing_blob_is_said(store: Path) -> None:
    manifest(store, "registry.ollama.ai/library/x/latest", {"layers": [layer("sha256:" + "0" * 64)]})
    assert find(store) == [Found("x:latest", (), f"the blob sha256-{'0' * 64} is missing")]


def test_what_comes_with_a_model(tmp_path: Path) -> None:
    layers = {"params": {"stop": ["</s>"]}, "system": "Be Mario.", "template": "{{ .Prompt }}", "adapter": b"GGUF"}
    put_model(tmp_path, "mario:latest", b"GGUF", **layers)
    [only] = find(tmp_path)
    assert only.reason is None
    assert (only.own.stop, only.own.system, len(only.own.adapters)) == (("</s>",), "Be Mario.", 1)
    assert [layer.kind for layer in only.own.layers] == ["params", "system", "adapter"]


def test_layers_that_make_no_sense_are_said(tmp_path: Path) -> None:
    put_model(tmp_path, "mario:latest", b"GGUF", params="{")
    [only] = find(tmp_path)
    assert only.reason and only.reason.startswith("its params cannot be read")


def test_a_model_of_the_same_file_with_other_things_is_another_model(tmp_path: Path) -> None:
    content = model().write(tmp_path / "tiny.gguf").read_bytes()
    put_model(tmp_path, "tiny:latest", content)
    put_model(tmp_path, "same:latest", content)
    put_model(tmp_path, "mario:latest", content, system="Be Mario.")
    catalog = Catalog([OllamaStore(str(tmp_path))])
    catalog.refresh()
    assert [each.id for each in catalog.models()] == ["mario:latest", "same:latest"]
    assert catalog.find("tiny").id == "same:latest" and catalog.find("mario").own.system == "Be Mario."
    put_model(tmp_path, "mario:latest", content, system="Be Luigi.")
    [change] = catalog.refresh()
    assert (change.id, change.kind) == ("mario:latest", "changed")


def test_another_adapter_makes_another_identity(tmp_path: Path) -> None:
    content = model().write(tmp_path / "tiny.gguf").read_bytes()
    catalog = Catalog([OllamaStore(str(tmp_path))])
    identities = []
    for adapter in (b"one", b"two"):
        put_model(tmp_path, "mario:latest", content, adapter=adapter)
        catalog.refresh()
        identities.append(catalog.find("mario").identity)
    assert identities[0] != identities[1]


def test_what_has_no_weights_here_is_left_out(store: Path) -> None:
    manifest(store, "registry.ollama.ai/library/cloud/latest", {"layers": [layer(kind="license")]})
    manifest(store, "registry.ollama.ai/stray", {"layers": [layer()]})
    assert find(store) == []


def test_no_store_is_an_empty_store(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") == []
