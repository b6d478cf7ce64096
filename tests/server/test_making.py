"""Models that are made over HTTP with weights of their own: the whole program, with llama.cpp's own quantizer."""

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from shimmy.models.gguf import read_header
from tests.convert.checkpoints import write_checkpoint, write_json
from tests.program import LIMIT_SECONDS, Program, program
from tests.worker import tiny_models

pytestmark = [pytest.mark.model, pytest.mark.program, pytest.mark.slow]


def post(running: Program, path: str, body: bytes | dict[str, Any]) -> tuple[int, list[Any]]:
    """The status and the objects of the answer, one for each line."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"{running.url}{path}", content, timeout=LIMIT_SECONDS) as answer:
            return answer.status, [json.loads(line) for line in answer]
    except urllib.error.HTTPError as error:
        return error.code, [json.load(error)]


def sent(running: Program, path: Path) -> str:
    content = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert post(running, f"/api/blobs/{digest}", content)[0] in (200, 201)
    return digest


def statuses(told: list[Any]) -> list[str]:
    return list(dict.fromkeys(line["status"] for line in told))


def level(running: Program, model: str) -> str:
    _, [shown] = post(running, "/api/show", {"model": model})
    return str(shown["details"]["quantization_level"])


def chat(running: Program, model: str) -> str:
    options = {"temperature": 0, "num_predict": 8}
    messages = [{"role": "user", "content": "the quick brown fox"}]
    body = {"model": model, "messages": messages, "options": options, "stream": False}
    status, [answer] = post(running, "/api/chat", body)
    assert status == 200, answer
    return str(answer["message"]["content"])


def types(blob: Path) -> set[str]:
    return {tensor.type for tensor in read_header(str(blob)).tensors}


def store_of(folder: Path) -> Path:
    return folder / ".local/share/shimmy/store"


def test_a_checkpoint_that_is_sent_becomes_a_model(tmp_path: Path) -> None:
    """It answers as the same checkpoint in a folder, and quantized as well."""
    folder = write_checkpoint(tmp_path / "models", "qwen3")
    with program(tmp_path, "--allow-pull") as running:
        files = {path.name: sent(running, path) for path in folder.iterdir()}
        status, told = post(running, "/api/create", {"model": "whole", "files": files})
        assert (status, statuses(told)) == (
            200,
            ["converting model", "verifying conversion", "writing manifest", "success"],
        )
        assert [line["completed"] for line in told if "total" in line][-1] == told[0]["total"] > 0
        expected = chat(running, "tiny-qwen3")
        assert expected and (chat(running, "whole"), level(running, "whole")) == (expected, "BF16")
        body = {"model": "half", "files": files, "quantize": "q8_0", "system": "Be brief."}
        status, told = post(running, "/api/create", body)
        assert statuses(told)[:2] == ["converting model", "quantizing BF16 model to Q8_0"]
        assert statuses(told)[-1] == "success" and chat(running, "half") and level(running, "half") == "Q8_0"
        write_json(tmp_path / "t5.json", {"architectures": ["T5Model"]})
        other = files | {"config.json": sent(running, tmp_path / "t5.json")}
        status, [refused] = post(running, "/api/create", {"model": "other", "files": other})
        assert status == 422 and "T5Model cannot be converted" in refused["error"]
        # What is found out only as it is converted.
        (tmp_path / "broken.json").write_text("{" * 9)
        other = files | {"tokenizer.json": sent(running, tmp_path / "broken.json")}
        status, told = post(running, "/api/create", {"model": "other", "files": other})
        assert told[-1]["code"] == "model_invalid" and "tokenizer.json cannot be read" in told[-1]["error"]
    manifest = json.loads((store_of(tmp_path) / "manifests" / "half.json").read_text())
    assert manifest["provenance"]["source"] == "files that were sent; converted from SafeTensors; quantized to Q8_0"
    [part] = manifest["parts"]
    blob = store_of(tmp_path) / "blobs" / f"sha256-{part['sha256']}"
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == part["sha256"] and "Q8_0" in types(blob)
    assert list((store_of(tmp_path) / "partial").iterdir()) == []


def test_a_model_is_quantized(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_models.full(tmp_path / "models" / "tiny.gguf")
    with program(tmp_path, "--allow-pull") as running:
        body = {"model": "mine", "from": "tiny", "quantize": "q8_0", "stream": False}
        assert post(running, "/api/create", body) == (200, [{"status": "success"}])
        assert level(running, "mine") == "Q8_0"
        assert post(running, "/v1/completions", {"model": "mine", "prompt": [5, 6, 7], "max_tokens": 2})[0] == 200
        again = {"model": "again", "from": "mine", "quantization": "q4_K_M"}
        status, [refused] = post(running, "/api/create", again)
        assert status == 400 and "quantized already, to Q8_0" in refused["error"]
        # In the place of itself; the file that it had goes with its last model.
        copy = {"model": "tiny-f16", "from": "tiny", "quantize": "f16", "stream": False}
        assert post(running, "/api/create", copy)[0] == 200 and level(running, "tiny-f16") == "F16"
        assert post(running, "/api/create", copy | {"from": "tiny-f16", "quantize": "q4_K_M"})[0] == 200
        assert level(running, "tiny-f16") == "Q4_K_M"
    assert len(list((store_of(tmp_path) / "blobs").iterdir())) == 2
    assert (tmp_path / "models" / "tiny.gguf").stat().st_nlink == 1
