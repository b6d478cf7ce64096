"""Our kernels (build/patches) compute what llama.cpp's own do: the same weights in F32, and attention without them."""

import array
import ctypes
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.worker.llama import backend
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.model import Model

EMBD, FF, LAYERS, VOCABULARY = 96, 160, 2, 131
# Numbers of rows that leave a group of eight over, and of heads that leave one over.
SHAPES = [(4, 1, 24), (5, 1, 32), (6, 2, 32), (3, 3, 64)]
Q4_1 = gguf.GGMLQuantizationType.Q4_1
Kind = Literal["Q4_1", "F16", "F32"]


def write(path: Path, shape: tuple[int, int, int], kind: Kind) -> str:
    """The same values in each kind, but for what F16 rounds off."""
    heads, kv_heads, head = shape
    model = gguf.GGUFWriter(path, "llama")
    model.add_context_length(1024)
    model.add_embedding_length(EMBD)
    model.add_block_count(LAYERS)
    model.add_feed_forward_length(FF)
    model.add_head_count(heads)
    model.add_head_count_kv(kv_heads)
    model.add_key_length(head)
    model.add_value_length(head)
    model.add_rope_dimension_count(head)
    model.add_layer_norm_rms_eps(1e-6)
    model.add_tokenizer_model("llama")
    model.add_token_list([b"<unk>", b"<s>", b"</s>"] + [b".%d" % number for number in range(VOCABULARY - 3)])
    model.add_token_scores([0.0] * VOCABULARY)
    model.add_token_types([2, 3, 3] + [1] * (VOCABULARY - 3))
    random = np.random.default_rng(1)

    def weight(name: str, rows: int, columns: int) -> None:
        values = (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)
        packed = gguf.quants.quantize(values, Q4_1)
        if kind == "Q4_1":
            model.add_tensor(f"{name}.weight", packed, raw_dtype=Q4_1)
        else:
            number = np.float16 if kind == "F16" else np.float32
            model.add_tensor(f"{name}.weight", gguf.quants.dequantize(packed, Q4_1).astype(number))

    def ones(name: str) -> None:
        model.add_tensor(f"{name}.weight", np.ones(EMBD, np.float32))

    for name in ("token_embd", "output"):
        values = random.standard_normal((VOCABULARY, EMBD)).astype(np.float32)
        model.add_tensor(f"{name}.weight", values)
    ones("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm")
        ones(f"{block}.ffn_norm")
        weight(f"{block}.attn_q", heads * head, EMBD)
        weight(f"{block}.attn_k", kv_heads * head, EMBD)
        weight(f"{block}.attn_v", kv_heads * head, EMBD)
        weight(f"{block}.attn_output", EMBD, heads * head)
        weight(f"{block}.ffn_gate", FF, EMBD)
        weight(f"{block}.ffn_up", FF, EMBD)
        weight(f"{block}.ffn_down", EMBD, FF)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()
    return str(path)


class Logits:
    """Of every row of batches of several sequences, in one unified cache."""

    def __init__(self, path: str, flash_attn: str, num_threads: int = 2) -> None:
        backend.start()
        settings = EngineSettings(flash_attn=flash_attn)  # type: ignore[arg-type]
        model = Model([path], lambda fraction: None, settings=settings)
        self._context = Context(model, context_length=1024, num_sequences=4, num_threads=num_threads, settings=settings)
        self._context.grow(1024, 0)

    def of(self, *chunks: tuple[int, int, list[int]]) -> np.ndarray:
        """Sequence, position and tokens of each."""
        batch = self._context.batch
        batch.clear()
        for sequence, position, tokens in chunks:
            batch.add(sequence, array.array("i", tokens), position, logits=True, every=True)
        self._context.decode()
        get, pointer = self._context._library.llama_get_logits_ith, ctypes.POINTER(ctypes.c_float)
        rows = [ctypes.cast(get(self._context.handle, row), pointer) for row in range(batch.size)]
        return np.array([np.ctypeslib.as_array(row, (VOCABULARY,)) for row in rows])


def conversation(logits: Logits) -> np.ndarray:
    """Batches of 1 to 150 rows: prompts, decoding alone and side by side, prompts beside that."""
    tokens = [int(token) for token in np.random.default_rng(2).integers(3, VOCABULARY, 400)]
    found = [
        logits.of((0, 0, tokens[:150])),
        logits.of((1, 0, tokens[:5])),
        logits.of((0, 150, tokens[150:151])),
        logits.of((0, 151, tokens[151:152]), (1, 5, tokens[5:6])),
        logits.of((0, 152, tokens[152:153]), (1, 6, tokens[6:7]), (2, 0, tokens[:70])),
        logits.of((2, 70, tokens[70:73])),
        logits.of((0, 153, tokens[153:154]), (1, 7, tokens[7:8]), (2, 73, tokens[73:74]), (3, 0, tokens[20:29])),
        logits.of((3, 9, tokens[29:42])),
    ]
    return np.concatenate(found)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The least cosine of any two rows."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.sum(one * other, axis=1) / lengths).min())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_q4_1_is_computed_as_the_same_weights_in_f32(shape: tuple[int, int, int], tmp_path: Path) -> None:
    packed = conversation(Logits(write(tmp_path / "q", shape, "Q4_1"), "off"))
    plain = conversation(Logits(write(tmp_path / "f", shape, "F32"), "off"))
    # What is computed in Q4_1 is rounded to 8 bits first.
    assert similarity(packed, plain) > 0.997
    assert similarity(packed, plain[::-1]) < 0.9


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_products_by_tiles_are_products(kind: Kind, num_threads: int, tmp_path: Path) -> None:
    """Of one row alone they are computed another way."""
    logits = Logits(write(tmp_path / "m", SHAPES[0], kind), "off", num_threads)
    tokens = [int(token) for token in np.random.default_rng(3).integers(3, VOCABULARY, 60)]
    alone = np.concatenate([logits.of((0, position, [token])) for position, token in enumerate(tokens)])
    at = 0
    for count in (2, 3, 4, 5, 7, 10, 29):
        together = logits.of((1, at, tokens[at : at + count]))
        assert similarity(together, alone[at : at + count]) > 0.9999
        at += count
    assert at == len(tokens)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_by_rows_is_attention(shape: tuple[int, int, int], num_threads: int, tmp_path: Path) -> None:
    path = write(tmp_path / "f", shape, "F32")
    ours = conversation(Logits(path, "on", num_threads))
    assert similarity(ours, conversation(Logits(path, "off"))) > 0.99999
