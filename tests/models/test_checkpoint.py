"""Checkpoints in folders: which files are one, what is known of it before it is converted, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shimmy.models.checkpoint import PICKLED, files_of, means
from shimmy.models.facts import Inspection, header_keys, inspect
from shimmy.models.folders import File, Folder, Found, HuggingFaceCache
from shimmy.models.safetensors import read_tensors
from tests.convert.checkpoints import TEMPLATE, write_checkpoint, write_json, write_tensors


def change(path: Path, **values: Any) -> None:
    """What None stands for goes."""
    known = json.loads(path.read_text()) | values
    write_json(path, {name: value for name, value in known.items() if value is not None})


def found_in(folder: Path) -> Found:
    [found] = Folder("test", str(folder)).find()
    return found


def inspected(folder: Path) -> Inspection:
    found = found_in(folder)
    assert found.reason is None
    return inspect(found.paths)


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    found = found_in(tmp_path)
    assert found.name == "tiny-qwen2" and found.reason is None
    assert [os.path.basename(path) for path in found.paths[:2]] == ["model.safetensors", "config.json"]
    for path in (folder, folder / "model.safetensors"):
        assert list(File("test", str(path)).find()) == [found]
        assert means(str(path), found.paths)
    assert not means(str(tmp_path), found.paths)


def test_its_facts(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "qwen2")
    inspection = inspected(tmp_path)
    assert inspection.invalid is None and inspection.facts is not None
    facts = inspection.facts
    assert (facts.architecture, facts.quantization, facts.context_length, facts.num_layers) == ("qwen2", "BF16", 512, 2)
    assert (facts.embedding_length, facts.vocabulary_size, facts.has_chat_template) == (64, 365, True)
    assert facts.num_parameters == 108_736
    assert (facts.feed_forward_length, facts.cache_row) == (96, (64, 64))
    assert facts.sampling == {"top_k": 20, "top_p": 0.8, "temperature": 0.7, "repetition_penalty": 1.1}
    assert facts.capabilities == ("completion",)
    keys = header_keys(found_in(tmp_path).paths)
    assert keys["qwen2.context_length"] == 512 and keys["tokenizer.chat_template"] == TEMPLATE


def test_a_model_for_vectors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "bert")
    facts = inspected(tmp_path).facts
    assert facts is not None
    assert (facts.pooling, facts.capabilities, facts.is_encoder) == ("mean", ("embedding",), True)
    write_json(tmp_path / "Tiny-bert" / "1_Pooling" / "config.json", {"pooling_mode": "lasttoken"})
    newer = inspected(tmp_path).facts
    assert newer is not None and newer.pooling == "last"


def test_shards(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    found = found_in(tmp_path)
    assert sum(path.endswith(".safetensors") for path in found.paths) == 2
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    write_json(index, {"weight_map": {**weight_map, "model.layers.9.mlp.up_proj.weight": "model-00002-of-00002"}})
    assert "1 tensors of its index are in none of its shards, model.layers.9" in (inspected(tmp_path).invalid or "")
    (folder / "model-00002-of-00002.safetensors").unlink()
    reason = "1 of 2 shards are missing, the first is model-00002-of-00002.safetensors"
    assert found_in(tmp_path).reason == reason
    write_tensors(folder / "model-00002-of-00002.safetensors", {})
    index.unlink()
    os.replace(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    os.link(folder / "model-00002-of-00002.safetensors", folder / "model-00001-of-00002.safetensors")
    assert "two shards have a tensor" in (inspected(tmp_path).invalid or "")


def test_shards_do_not_go_on_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of 16 MiB may say nothing of any tensor, and one file may be a thousand shards."""
    folder = write_checkpoint(tmp_path, "llama")
    num_tensors = sum(len(read_tensors(str(path))) for path in folder.glob("*.safetensors"))
    monkeypatch.setattr("shimmy.models.checkpoint.MAX_TENSORS", num_tensors)
    assert inspected(tmp_path).invalid is None
    monkeypatch.setattr("shimmy.models.checkpoint.MAX_TENSORS", num_tensors - 1)
    assert f"it has more than {num_tensors - 1} tensors" in (inspected(tmp_path).invalid or "")
    write_tensors(folder / "model-00001-of-00002.safetensors", {})
    assert inspected(tmp_path).invalid == "model-00001-of-00002.safetensors: there are no tensors in it"


def test_a_hugging_face_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Org--Some_Model" / "snapshots" / "0123abcd"
    blobs = tmp_path / "models--Org--Some_Model" / "blobs"
    made = write_checkpoint(tmp_path / "made", "mistral")
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(made.iterdir())):
        os.replace(path, blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    [found] = HuggingFaceCache(str(tmp_path)).find()
    assert found.name == "some-model" and inspect(found.paths).invalid is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"architectures": ["WhisperForConditionalGeneration"]},
            "WhisperForConditionalGeneration cannot be converted; Llama",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized (gptq)"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers is 'many'"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"max_position_embeddings": 10**400}, "max_position_embeddings is 1000"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    change(write_checkpoint(tmp_path, "qwen2") / "config.json", **values)
    assert reason in (inspected(tmp_path).invalid or "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "config.json is no JSON"),
        (b"[]", "config.json is no JSON object"),
        (b'{"a":' * 100_000, "config.json is no JSON"),
        (b" " * (5 << 20), "config.json is longer than 4194304 bytes"),
    ],
)
def test_a_configuration_that_is_none(tmp_path: Path, content: bytes, reason: str) -> None:
    (write_checkpoint(tmp_path, "qwen2") / "config.json").write_bytes(content)
    assert reason in (inspected(tmp_path).invalid or "")


def test_weights_of_another_type(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    write_tensors(folder / "model.safetensors", {"model.norm.weight": ("F8_E4M3", (64,), bytes(64))})
    assert "tensor model.norm.weight is F8_E4M3" in (inspected(tmp_path).invalid or "")
    (folder / "model.safetensors").write_bytes(b"PK\3\4 and so on")
    assert (inspected(tmp_path).invalid or "").startswith("model.safetensors: truncated")


def test_without_a_tokenizer(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, "qwen2") / "tokenizer.json").unlink()
    assert inspected(tmp_path).invalid == "it has neither tokenizer.json nor tokenizer.model"


def test_pickled_weights_are_refused_and_not_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    os.replace(folder / "model.safetensors", folder / "pytorch_model.bin")
    inspection = inspected(tmp_path)
    assert (inspection.kind, inspection.invalid) == ("model", PICKLED)
    named = tmp_path / "weights.pt"
    named.write_bytes(b"PK")
    [found] = File("test", str(named)).find()
    assert inspect(found.paths).invalid == PICKLED


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"architectures": ["LlamaForCausalLM"]})
    assert list(Folder("test", str(tmp_path)).find()) == []
    assert files_of(str(tmp_path), ["model.safetensors"]) is None
    [found] = File("test", str(tmp_path)).find()
    assert found.reason == "there is no config.json with .safetensors"
    # A part of a pipeline: its configuration names no class of transformers.
    write_json(tmp_path / "config.json", {"in_features": 3})
    write_tensors(tmp_path / "model.safetensors", {})
    assert inspected(tmp_path).kind == "other"
