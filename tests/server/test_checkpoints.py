"""The whole program with folders in SafeTensors: served like files, converted once, and refused with a reason."""

import json
import os
import shutil
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimmy.models.gguf import read_header
from tests.convert.checkpoints import write_checkpoint, write_json, write_tensors
from tests.fakes.gguf_reader import read
from tests.program import LIMIT_SECONDS, Program, program, run

pytestmark = [pytest.mark.model, pytest.mark.program, pytest.mark.slow]


def post(running: Program, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        running.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def chat(running: Program, model: str) -> tuple[int, Any]:
    messages = [{"role": "user", "content": "the quick"}]
    return post(
        running, "/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 5, "temperature": 0}
    )


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "shimmy" / "converted").glob("*.gguf"))


def test_folders_are_served(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for family in ("llama", "gemma3", "bert"):
        write_checkpoint(models, family)
    pickled = write_checkpoint(models, "phi3")
    os.replace(pickled / "model.safetensors", pickled / "pytorch_model.bin")
    hostile = write_checkpoint(models, "qwen3")
    write_tensors(hostile / "model.safetensors", {"x.weight": ("F16", (2, 2), bytes(8))})
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with program(tmp_path, environment=environment) as running:
        listed = {model["id"] for model in running.get("/v1/models")["data"]}
        assert {"tiny-llama", "tiny-gemma3", "tiny-bert"} <= listed
        first = chat(running, "tiny-llama")
        assert first[0] == 200 and first[1]["usage"]["completion_tokens"] == 5
        assert chat(running, "tiny-gemma3")[0] == 200
        status, answer = post(running, "/v1/embeddings", {"model": "tiny-bert", "input": "the lazy dog"})
        assert status == 200 and len(answer["data"][0]["embedding"]) == 64
        status, answer = post(running, "/api/show", {"model": "tiny-llama"})
        assert status == 200 and answer["model_info"]["llama.context_length"] == 512
        status, answer = chat(running, "tiny-phi3")
        assert status == 422 and "pickled" in answer["error"]["message"]
        status, answer = chat(running, "tiny-qwen3")
        assert status == 422 and "tensor x.weight is none of those" in answer["error"]["message"]
    assert len(kept(tmp_path)) == 3
    before = [path.stat() for path in kept(tmp_path)]
    with program(tmp_path, "--model-path", str(models / "Tiny-llama"), environment=environment) as running:
        assert chat(running, "tiny-llama")[1]["choices"] == first[1]["choices"]
    assert [path.stat() for path in kept(tmp_path)] == before


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def claim(folder: Path) -> None:
    """A header of 2**62 bytes."""
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights-cut": (cut, "truncated"),
    "header-2-62": (claim, "truncated"),
    "no-tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "neither tokenizer.json nor tokenizer.model"),
    "no-json": (lambda folder: (folder / "tokenizer.json").write_text("{" * 9), "tokenizer.json cannot be read"),
    "t5": (lambda folder: write_json(folder / "config.json", {"architectures": ["T5Model"]}), "T5Model cannot be"),
    "no-layers": (lambda folder: change(folder, num_hidden_layers=0), "num_hidden_layers is 0"),
    "layers-2-31": (lambda folder: change(folder, num_hidden_layers=1 << 31), "num_hidden_layers is 2147483648"),
    "more-layers": (lambda folder: change(folder, num_hidden_layers=9), "layer 2 has no tensors"),
    "fewer-layers": (lambda folder: change(folder, num_hidden_layers=1), "there are tensors of 2 layers"),
    "quantized": (lambda folder: change(folder, quantization_config={"quant_method": "gptq"}), "quantized (gptq)"),
}


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | fields)


def test_hostile_folders_are_refused_with_the_reason(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_checkpoint(models, "qwen3")
    for name, (damage, _) in HOSTILE.items():
        shutil.copytree(models / "Tiny-qwen3", models / name)
        damage(models / name)
    with program(tmp_path, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")}) as running:
        for name, (_, reason) in HOSTILE.items():
            status, answer = chat(running, name)
            assert (status, answer["error"]["code"]) == (422, "model_invalid"), answer
            assert reason in answer["error"]["message"], name
        assert chat(running, "tiny-qwen3")[0] == 200
    assert len(kept(tmp_path)) == 1


def test_a_folder_as_a_file(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    source, target = write_checkpoint(tmp_path, "mistral"), tmp_path / "out.gguf"
    done = run("convert", str(source), str(target), env=environment)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(f"ok: wrote {target} in ")
    whole = read(target)
    assert whole.metadata["general.name"] == "Tiny-mistral"
    refused = run("convert", str(source), str(target), env=environment)
    assert refused.returncode == 2 and "--force replaces it" in refused.stderr
    done = run("convert", str(source), str(target), "F16", "--force", env=environment)
    assert done.returncode == 0
    assert {tensor.type for tensor in read(target).tensors.values()} == {"F32", "F16"}
    done = run("convert", str(source), str(target), "Q8_0", "--force", env=environment)
    assert done.returncode == 0
    assert {tensor.type for tensor in read_header(str(target)).tensors} == {"F32", "Q8_0"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Tiny-mistral", "out.gguf"]


def test_what_is_no_checkpoint_is_not_converted(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    write_json(folder / "config.json", {"architectures": ["T5Model"]})
    refused = run("convert", str(folder), str(tmp_path / "out.gguf"))
    assert refused.returncode != 0 and "T5Model cannot be converted" in refused.stderr
    shutil.rmtree(folder)
    folder.mkdir()
    refused = run("convert", str(folder), str(tmp_path / "out.gguf"))
    assert refused.returncode != 0 and "there is no config.json with .safetensors" in refused.stderr
    assert not (tmp_path / "out.gguf").exists()
