"""An Ollama store: its names, and manifests that cannot be trusted."""

import json
from pathlib import Path
from typing import Any

import pytest

from shimmy.models.folders import Found
from shimmy.models.ollama import MAX_MANIFEST_BYTES, OllamaStore

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
    content = {"schemaVersion": 2, "layers": [layer(kind="license"), layer(), layer(kind="projector")]}
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


def test_an_adapter_is_not_silently_left_out(store: Path) -> None:
    manifest(store, "registry.ollama.ai/library/x/latest", {"layers": [layer(), layer(kind="adapter")]})
    [only] = find(store)
    assert only.reason == "it has an adapter, which would be left out"


def test_what_has_no_weights_here_is_left_out(store: Path) -> None:
    manifest(store, "registry.ollama.ai/library/cloud/latest", {"layers": [layer(kind="license")]})
    manifest(store, "registry.ollama.ai/stray", {"layers": [layer()]})
    assert find(store) == []


def test_no_store_is_an_empty_store(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") == []
