"""Models of a few hundred kilobytes with random weights, one for each kind of memory; every token of a prompt has a say
in what they answer, in milliseconds. Their tokens are ".0" to ".255", after three special ones."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

WINDOW_TOKENS = 24
FIRST_TOKEN = 3
VOCABULARY = 259
FIRST_MARK = FIRST_TOKEN + 0xF8
_EMBD, _HEADS, _HEAD, _KV_HEADS = 64, 4, 16, 2
_FF = _INNER = 2 * _EMBD


class _Writer(gguf.GGUFWriter):
    def __init__(self, path: Path, architecture: str, num_layers: int, *, of_bytes: bool = False) -> None:
        super().__init__(path, architecture)
        ordinary, kind = ("<0x%02X>", gguf.TokenType.BYTE) if of_bytes else (".%d", gguf.TokenType.NORMAL)
        self._random = np.random.default_rng(1)
        self.add_context_length(4096)
        self.add_embedding_length(_EMBD)
        self.add_block_count(num_layers)
        self.add_layer_norm_rms_eps(1e-6)
        self.add_rope_freq_base(10000.0)
        self.add_tokenizer_model("llama")
        self.add_token_list(
            [b"<unk>", b"<s>", b"</s>"] + [(ordinary % each).encode() for each in range(VOCABULARY - 3)]
        )
        self.add_token_scores([0.0] * VOCABULARY)
        self.add_token_types([2, 3, 3] + [kind] * (VOCABULARY - 3))
        self.add_bos_token_id(1)
        self.add_eos_token_id(2)
        self.random("token_embd", _EMBD, VOCABULARY)
        self.random("output", _EMBD, VOCABULARY)

    def random(self, name: str, *shape: int) -> None:
        """Shapes as ggml writes them, the rows' length first."""
        values = self._random.standard_normal(shape[::-1]) * shape[0] ** -0.5
        self.add_tensor(f"{name}.weight", values.astype(np.float32))

    def constant(self, name: str, value: float, *shape: int) -> None:
        self.add_tensor(name, np.full(shape[::-1], value, np.float32))

    def norm(self, name: str, size: int = _EMBD, value: float = 1.0) -> None:
        self.constant(f"{name}.weight", value, size)

    def attention(self, block: str) -> None:
        self.random(f"{block}.attn_q", _EMBD, _HEADS * _HEAD)
        self.random(f"{block}.attn_k", _EMBD, _KV_HEADS * _HEAD)
        self.random(f"{block}.attn_v", _EMBD, _KV_HEADS * _HEAD)
        self.random(f"{block}.attn_output", _HEADS * _HEAD, _EMBD)
        # Large, so that attention picks tokens out instead of averaging them.
        self.norm(f"{block}.attn_q_norm", _HEAD, 3.0)
        self.norm(f"{block}.attn_k_norm", _HEAD, 3.0)

    def feed_forward(self, block: str) -> None:
        self.norm(f"{block}.ffn_norm")
        self.random(f"{block}.ffn_gate", _EMBD, _FF)
        self.random(f"{block}.ffn_up", _EMBD, _FF)
        self.random(f"{block}.ffn_down", _FF, _EMBD)

    def write(self) -> None:
        self.write_header_to_file()
        self.write_kv_data_to_file()
        self.write_tensors_to_file()
        self.close()


def full(path: Path) -> None:
    """All layers see everything (Gemma 3)."""
    _gemma3(path, 2, 0)


def infilling(path: Path) -> None:
    """As `full`, with a token for each byte, so that it can read any text. Those of bytes that are in none, from
    `FIRST_MARK` on, are for the parts of a text that has a gap."""
    _gemma3(path, 2, 0, marks=("pre", "suf", "mid", "rep", "sep"))


def opinionated(path: Path) -> None:
    """As `full`, with wishes of its own about sampling, one of which makes no sense, and a token that must not come."""
    _gemma3(path, 2, 0, temp=0.0, top_k=7, top_p=7.0, sequence="top_k;nonsense;temperature")


def window(path: Path) -> None:
    """Five layers that see 24 tokens, and one that sees all (Gemma 3)."""
    _gemma3(path, 6, WINDOW_TOKENS)


def _gemma3(
    path: Path, num_layers: int, window_tokens: int, *, marks: tuple[str, ...] = (), **sampling: float | int | str
) -> None:
    model = _Writer(path, "gemma3", num_layers, of_bytes=bool(marks))
    for token, part in enumerate(marks, FIRST_MARK):
        model.add_uint32(f"tokenizer.ggml.fim_{part}_token_id", token)
    for key, value in sampling.items():
        add = {float: model.add_float32, int: model.add_int32, str: model.add_string}[type(value)]
        add(f"general.sampling.{key}", value)  # type: ignore[operator]
    if sampling:
        model.add_array("tokenizer.ggml.suppress_tokens", [FIRST_TOKEN, 10**6])
    model.add_feed_forward_length(_FF)
    model.add_head_count(_HEADS)
    model.add_head_count_kv(_KV_HEADS)
    model.add_key_length(_HEAD)
    model.add_value_length(_HEAD)
    if window_tokens:
        model.add_sliding_window(window_tokens)
    model.norm("output_norm")
    for layer in range(num_layers):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        model.attention(block)
        model.norm(f"{block}.post_attention_norm")
        model.feed_forward(block)
        model.norm(f"{block}.post_ffw_norm")
    model.write()


def experts(path: Path) -> None:
    """Four layers, each with four experts of which two have a say (Qwen 3 MoE)."""
    num_experts = 4
    model = _Writer(path, "qwen3moe", 4)
    model.add_feed_forward_length(_FF)
    model.add_expert_feed_forward_length(_FF)
    model.add_head_count(_HEADS)
    model.add_head_count_kv(_KV_HEADS)
    model.add_key_length(_HEAD)
    model.add_value_length(_HEAD)
    model.add_expert_count(num_experts)
    model.add_expert_used_count(2)
    model.norm("output_norm")
    for layer in range(4):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        model.attention(block)
        model.norm(f"{block}.ffn_norm")
        model.random(f"{block}.ffn_gate_inp", _EMBD, num_experts)
        model.random(f"{block}.ffn_gate_exps", _EMBD, _FF, num_experts)
        model.random(f"{block}.ffn_up_exps", _EMBD, _FF, num_experts)
        model.random(f"{block}.ffn_down_exps", _FF, _EMBD, num_experts)
    model.write()


def recurrent(path: Path) -> None:
    """Two Mamba layers whose state fades slowly."""
    num_states, rank, kernel = 8, 4, 4
    model = _Writer(path, "mamba", 2)
    model.add_feed_forward_length(0)
    model.add_head_count(0)
    model.add_ssm_conv_kernel(kernel)
    model.add_ssm_inner_size(_INNER)
    model.add_ssm_state_size(num_states)
    model.add_ssm_time_step_rank(rank)
    model.norm("output_norm")
    for layer in range(2):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        model.random(f"{block}.ssm_in", _EMBD, 2 * _INNER)
        model.random(f"{block}.ssm_conv1d", kernel, _INNER)
        model.constant(f"{block}.ssm_conv1d.bias", 0.1, _INNER)
        model.random(f"{block}.ssm_x", _INNER, rank + 2 * num_states)
        model.random(f"{block}.ssm_dt", rank, _INNER)
        model.constant(f"{block}.ssm_dt.bias", -3.0, _INNER)
        model.constant(f"{block}.ssm_a", -0.1, num_states, _INNER)
        model.constant(f"{block}.ssm_d", 1.0, _INNER)
        model.random(f"{block}.ssm_out", _INNER, _EMBD)
    model.write()


def hybrid(path: Path) -> None:
    """Convolutions and attention by turns (LFM2)."""
    kernel = 3
    num_kv_heads = [0, _KV_HEADS, 0, _KV_HEADS]
    model = _Writer(path, "lfm2", 4)
    model.add_feed_forward_length(_FF)
    model.add_head_count(_HEADS)
    model.add_head_count_kv(num_kv_heads)
    model.add_shortconv_l_cache(kernel)
    model.add_vocab_size(VOCABULARY)
    model.norm("token_embd_norm")
    for layer, num_heads in enumerate(num_kv_heads):
        block = f"blk.{layer}"
        model.norm(f"{block}.attn_norm")
        model.feed_forward(block)
        if num_heads:
            model.attention(block)
        else:
            model.random(f"{block}.shortconv.conv", kernel, _EMBD)
            model.random(f"{block}.shortconv.in_proj", _EMBD, 3 * _EMBD)
            model.random(f"{block}.shortconv.out_proj", _EMBD, _EMBD)
    model.write()


def reranker(path: Path) -> dict[str, np.ndarray]:
    """Two layers that score a text for a query (BERT with a head). Words are "w0" to "w99"; anything else is unknown.
    Returns the tensors by name, their rows as ggml has them."""
    heads, feed_forward, num_positions, num_layers = 4, 128, 64, 2
    random = np.random.default_rng(2)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(num_layers)
    writer.add_context_length(num_positions)
    writer.add_embedding_length(_EMBD)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([*RERANKER_SPECIAL, *(f"\u2581w{number}" for number in range(100))])
    writer.add_token_types([3] * len(RERANKER_SPECIAL) + [1] * 100)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int, scale: float = 0.0, offset: float = 0.0) -> None:
        values = random.standard_normal(shape[::-1]) * (scale or shape[0] ** -0.5) + offset
        tensors[name] = values.astype(np.float32)

    def linear(name: str, inputs: int, outputs: int) -> None:
        add(f"{name}.weight", inputs, outputs)
        add(f"{name}.bias", outputs, scale=0.1)

    def norm(name: str) -> None:
        add(f"{name}.weight", _EMBD, scale=0.1, offset=1.0)
        add(f"{name}.bias", _EMBD, scale=0.1)

    add("token_embd.weight", _EMBD, len(RERANKER_SPECIAL) + 100, scale=1.0)
    add("position_embd.weight", _EMBD, num_positions, scale=0.3)
    add("token_types.weight", _EMBD, 2, scale=0.1)
    norm("token_embd_norm")
    for layer in range(num_layers):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"{block}.{part}", _EMBD, _EMBD)
        norm(f"{block}.attn_output_norm")
        linear(f"{block}.ffn_up", _EMBD, feed_forward)
        linear(f"{block}.ffn_down", feed_forward, _EMBD)
        norm(f"{block}.layer_output_norm")
    linear("cls", _EMBD, _EMBD)
    linear("cls.output", _EMBD, 1)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


RERANKER_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

KINDS: dict[str, Callable[[Path], None]] = {kind.__name__: kind for kind in (full, window, recurrent, hybrid)}
