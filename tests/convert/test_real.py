"""A real model there and back: the demo model as a checkpoint, loaded from its folder, says token for token what it
says as the GGUF file that the checkpoint was made of."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from shimmy.convert.conversion import plan, write
from shimmy.core import ipc
from shimmy.core.events import TextDelta
from shimmy.core.ipc import EngineOptions, Events
from shimmy.core.request import Generation, Sampling, Text
from shimmy.models.checkpoint import files_of
from shimmy.worker.loading import load_engine
from shimmy.worker.loop import Command
from shimmy.worker.quantize import quantize
from tests.convert.checkpoints import added, write_json, write_tensors
from tests.fakes.gguf_reader import ReadFile, ReadTensor, read
from tests.worker.conftest import DEMO
from tests.worker.test_loop import SteadyPacer

pytestmark = pytest.mark.model

F16 = 1
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
PROMPTS = [
    "The capital of France is",
    "def add(a, b):\n    ",
    "1234567 and 89 aren't \u00e9t\u00e9\n\n\tno",
    "Once upon",
]


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in F16, as llama.cpp makes it."""
    folder = tmp_path_factory.mktemp("halved")
    target = str(folder / "halved.gguf")
    job = ipc.Quantize(str(DEMO), target, f"{target}.partial", F16, num_threads=2, allow_requantize=True)
    quantize(job, lambda progress: None)
    return Path(target)


@pytest.fixture(scope="module")
def original(halved: Path) -> ReadFile:
    return read(halved)


@pytest.fixture(scope="module")
def checkpoint(original: ReadFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "SmolLM2"
    folder.mkdir()
    _write_weights(folder, original)
    _write_config(folder, original.metadata)
    _write_tokenizer(folder, original.metadata)
    return folder


def _write_weights(folder: Path, file: ReadFile) -> None:
    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    tensors = {}
    for name, tensor in file.tensors.items():
        if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
            number, part = match.groups()
            data = _halves_apart(tensor, file.metadata[heads[part]]) if part in heads else tensor.data
            tensors[f"model.layers.{number}.{PARTS[part]}.weight"] = (tensor.type, tensor.shape[::-1], data)
        else:
            tensors[outer[name]] = (tensor.type, tensor.shape[::-1], tensor.data)
    write_tensors(folder / "model.safetensors", tensors)


def _halves_apart(tensor: ReadTensor, num_heads: int) -> bytes:
    """Of each head the even rows, then the odd ones."""
    num_rows = tensor.shape[1]
    size = len(tensor.data) // num_rows
    rows = [tensor.data[at : at + size] for at in range(0, len(tensor.data), size)]
    length = num_rows // num_heads
    heads = [rows[at : at + length] for at in range(0, num_rows, length)]
    return b"".join(row for head in heads for row in (*head[0::2], *head[1::2]))


def _write_config(folder: Path, metadata: dict[str, Any]) -> None:
    def said(key: str) -> Any:
        return metadata[f"llama.{key}"]

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": said("embedding_length"),
        "intermediate_size": said("feed_forward_length"),
        "num_hidden_layers": said("block_count"),
        "num_attention_heads": said("attention.head_count"),
        "num_key_value_heads": said("attention.head_count_kv"),
        "max_position_embeddings": said("context_length"),
        "rms_norm_eps": said("attention.layer_norm_rms_epsilon"),
        "rope_theta": said("rope.freq_base"),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
    }
    write_json(folder / "config.json", config)


def _write_tokenizer(folder: Path, metadata: dict[str, Any]) -> None:
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": [added(id, tokens[id], special=True) for id, kind in enumerate(types) if kind == 3],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, split]},
            "post_processor": None,
            "model": {
                "type": "BPE",
                "vocab": {token: id for id, token in enumerate(tokens)},
                "merges": metadata["tokenizer.ggml.merges"],
            },
        },
    )
    named = {f"{kind}_token": tokens[metadata[f"tokenizer.ggml.{kind}_token_id"]] for kind in ("bos", "eos")}
    template = {"chat_template": metadata["tokenizer.chat_template"]}
    write_json(folder / "tokenizer_config.json", {**named, **template, "add_bos_token": False})


def _paths(folder: Path) -> list[str]:
    found = files_of(str(folder), os.listdir(folder))
    assert found is not None and found[1] is None
    return list(found[0])


def _answers(paths: list[str], on_progress: Callable[[float], None] = lambda fraction: None) -> dict[str, str]:
    """What the model goes on with after each of the prompts, computed side by side."""
    engine = load_engine(paths, EngineOptions(context_length=256, num_threads=2), on_progress)
    commands: SimpleQueue[Command] = SimpleQueue()
    answers = dict.fromkeys(PROMPTS, "")

    def take(frame: Events) -> None:
        for event in frame.events:
            if isinstance(event, TextDelta):
                answers[PROMPTS[int(event.id)]] += event.text

    loop = engine.loop(commands, take)
    # In the same steps each time, whatever they cost.
    loop._scheduler._pacer = SteadyPacer()
    sampling = Sampling(temperature=0, ignore_eos=True)
    for index, text in enumerate(PROMPTS):
        generation = Generation(id=str(index), model="m", prompt=Text(text), max_tokens=24, sampling=sampling)
        commands.put(engine.prompter().prepare(generation))
    busy = True
    while busy:
        loop._receive(wait=False)
        busy = loop.step()
        loop._emit()
    return answers


def test_the_same_answers_as_the_file_it_was_made_of(
    halved: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = _answers([str(halved)])
    assert all(expected.values())
    told: list[float] = []
    assert _answers(_paths(checkpoint), told.append) == expected
    assert told == sorted(told) and told[0] < 0.5 and told[-1] >= 0.9
    [kept] = (tmp_path / "shimmy" / "converted").glob("*.gguf")
    before = kept.stat()
    assert _answers(_paths(checkpoint)) == expected
    assert kept.stat() == before


def test_the_same_file(original: ReadFile, checkpoint: Path, tmp_path: Path) -> None:
    with (tmp_path / "made.gguf").open("wb") as sink:
        write(plan(_paths(checkpoint), "SmolLM2"), sink, lambda fraction: None)
    made = read(tmp_path / "made.gguf")
    assert made.tensors == original.tensors
    keys = [key for key in original.metadata if key.startswith(("llama.", "tokenizer.")) and key in made.metadata]
    assert {key: made.metadata[key] for key in keys} == {key: original.metadata[key] for key in keys}
    assert len(keys) > 15
