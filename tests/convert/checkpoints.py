"""Checkpoints of every family that can be converted, so small that they take a moment: random weights, the same each
time, and tokenizers of each kind. Shares no code with what reads them."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN, HEADS, KV_HEADS, INNER, LAYERS = 64, 4, 2, 96, 2
TRIPLES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
TRIPLES += r"|\s+(?!\S)|\s+"
DIGITS = TRIPLES.replace("{1,3}", "")
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
WORDS = "the quick brown fox jumps over a lazy dog and then it sleeps in the sun for an hour".split()

Weights = dict[str, tuple[int, ...]]


def write_checkpoint(folder: Path, family: str, dtype: str = "BF16") -> Path:
    """The checkpoint of `family` in `folder`, named after it; see FAMILIES."""
    folder = folder / f"Tiny-{family}"
    folder.mkdir(parents=True)
    FAMILIES[family](folder, dtype)
    return folder


def write_tensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """`tensors` have type, shape and data; a file like those of the library."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def random_floats(shape: tuple[int, ...], kind: str, generator: random.Random) -> bytes:
    """Numbers of about 0.1, as a trained model's."""
    count = 1
    for extent in shape:
        count *= extent
    values = [generator.gauss(0, 0.1) for _ in range(count)]
    if kind == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return struct.pack(f"<{count}{'e' if kind == 'F16' else 'f'}", *values)


def write_weights(folder: Path, weights: Weights, dtype: str, *, num_shards: int = 1) -> None:
    generator = random.Random(7)
    made = {name: (dtype, shape, random_floats(shape, dtype, generator)) for name, shape in weights.items()}
    if num_shards == 1:
        write_tensors(folder / "model.safetensors", made)
        return
    names = list(made)
    index: dict[str, str] = {}
    for number in range(num_shards):
        shard = f"model-{number + 1:05}-of-{num_shards:05}.safetensors"
        part = names[number::num_shards]
        write_tensors(folder / shard, {name: made[name] for name in part})
        index |= dict.fromkeys(part, shard)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False))


# Tokenizers


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in kept else chr(next(others)) for byte in range(0x100)]


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """One that puts each word together from its left."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
    return list(merges)


def write_byte_level(
    folder: Path, specials: list[str], bos: str | None, eos: str, *, pattern: str | None, ignore_merges: bool = False
) -> int:
    """A BPE over bytes; returns how many tokens it has."""
    merges = merges_of([*WORDS, *(f"\u0120{word}" for word in WORDS)])
    vocab = list(dict.fromkeys([*byte_letters(), *(left + right for left, right in merges)]))
    ids = {token: id for id, token in enumerate([*vocab, *specials])}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern is None}
    template: list[dict[str, Any]] = [
        {"SpecialToken": {"id": bos, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    begins = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, *[{**part} for part in template[:1]], {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [ids.get(bos or "")], "tokens": [bos]}},
    }
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(ids[token], token, special=index < 3) for index, token in enumerate(specials)],
            "normalizer": {"type": "NFC"} if pattern == DIGITS else None,
            "pre_tokenizer": byte_level
            if pattern is None
            else {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": begins if bos else {**byte_level, "use_regex": True},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": ignore_merges,
                "vocab": {token: ids[token] for token in vocab},
                "merges": [list(merge) for merge in merges] if ignore_merges else [" ".join(merge) for merge in merges],
            },
        },
    )
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "chat_template": TEMPLATE}
    config |= {"bos_token": bos} if bos else {"bos_token": None, "add_bos_token": False, "pad_token": specials[0]}
    write_json(folder / "tokenizer_config.json", config)
    return len(ids)


def added(id: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": id, "content": content, **flags}


def protobuf(*fields: tuple[int, int | float | bytes | str]) -> bytes:
    def varint(value: int) -> bytes:
        more = value >> 7
        return bytes([value & 0x7F | 0x80]) + varint(more) if more else bytes([value])

    message = b""
    for number, value in fields:
        if isinstance(value, int):
            message += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            message += varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            message += varint(number << 3 | 2) + varint(len(data)) + data
    return message


def spm_pieces(specials: list[str]) -> list[tuple[str, float, int]]:
    """(text, score, type) of a vocabulary like Llama's: the first is <unk>, all bytes, then what merges make."""
    words = [*WORDS, *(f"\u2581{word}" for word in WORDS)]
    merged = list(dict.fromkeys(left + right for left, right in merges_of(words)))
    letters = sorted({letter for word in words for letter in word} - set(merged))
    pieces = [("<unk>", 0.0, 2), *((text, 0.0, 3) for text in specials)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    return pieces + [(text, -float(rank), 1) for rank, text in enumerate([*merged, *letters])]


def write_sentencepiece(
    folder: Path, specials: list[str], more: list[str], *, begins_with_space: bool, num_special: int = 1
) -> int:
    """tokenizer.model, and what tokenizer_config.json says of it; returns how many tokens there are. The first
    `num_special` of `more` are special."""
    pieces = spm_pieces(specials)
    trainer = protobuf((3, 2), (4, len(pieces)), (35, 1), (40, 0), (41, 1), (42, 2), (43, 2**64 - 1))
    normalizer = protobuf((1, "identity"), (3, int(begins_with_space)), (4, 0), (5, 1))
    fields = [(1, protobuf((1, text), (2, score), (3, kind))) for text, score, kind in pieces]
    (folder / "tokenizer.model").write_bytes(protobuf(*fields, (2, trainer), (3, normalizer)))
    decoder = {str(id): added(id, text, special=True) for id, (text, _, _) in enumerate(pieces[: len(specials) + 1])}
    decoder |= {
        str(len(pieces) + at): added(len(pieces) + at, text, special=at < num_special) for at, text in enumerate(more)
    }
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    config |= {"bos_token": specials[0], "eos_token": {"content": specials[1]}, "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", config | {"added_tokens_decoder": decoder, "chat_template": TEMPLATE})
    return len(pieces) + len(more)


def write_same_as_json(folder: Path, specials: list[str], more: list[str]) -> int:
    """The same tokenizer as tokenizer.json has it, without tokenizer.model."""
    write_sentencepiece(folder, specials, more, begins_with_space=True)
    (folder / "tokenizer.model").unlink()
    pieces = spm_pieces(specials)
    ids = {text: id for id, (text, _, _) in enumerate(pieces)}
    words = [*WORDS, *(f"\u2581{word}" for word in WORDS)]
    tokens = [*(text for text, _, _ in pieces[: len(specials) + 1]), *more]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": [
                added(
                    ids.get(text, len(pieces) + more.index(text) if text in more else 0), text, special=text != more[-1]
                )
                for text in tokens
            ],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, space]},
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": []},
            "model": {
                "type": "BPE",
                "unk_token": "<unk>",
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": ids,
                "merges": [" ".join(merge) for merge in merges_of(words)],
            },
        },
    )
    return len(pieces) + len(more)


def write_word_pieces(folder: Path) -> int:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for word in WORDS for letter in word})
    vocab = list(dict.fromkeys([*specials, *letters, *(f"##{letter}" for letter in letters), *WORDS, "##s", "##ing"]))
    ids = {token: id for id, token in enumerate(vocab)}
    cls, sep = ({"SpecialToken": {"id": text, "type_id": 0}} for text in ("[CLS]", "[SEP]"))
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": [added(ids[token], token, special=True) for token in specials],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [cls, one, sep],
                "pair": [cls, one, sep, other, sep],
                "special_tokens": {
                    text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in ("[CLS]", "[SEP]")
                },
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": ids,
            },
        },
    )
    named = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **named})
    return len(ids)


# Families


def decoder_weights(
    num_tokens: int, head: int, *, fused: bool = False, bias: bool = False, tied: bool = False
) -> Weights:
    weights: Weights = {"model.embed_tokens.weight": (num_tokens, HIDDEN)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        rows = {"q": HEADS * head, "k": KV_HEADS * head, "v": KV_HEADS * head}
        if fused:
            weights[f"{at}.self_attn.qkv_proj.weight"] = (sum(rows.values()), HIDDEN)
            weights[f"{at}.mlp.gate_up_proj.weight"] = (2 * INNER, HIDDEN)
        else:
            weights |= {f"{at}.self_attn.{part}_proj.weight": (size, HIDDEN) for part, size in rows.items()}
            weights |= {f"{at}.mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        if bias:
            weights |= {f"{at}.self_attn.{part}_proj.bias": (size,) for part, size in rows.items()}
        weights[f"{at}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * head)
        weights[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        weights |= {f"{at}.{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
    weights["model.norm.weight"] = (HIDDEN,)
    return weights if tied else weights | {"lm_head.weight": (num_tokens, HIDDEN)}


def config(name: str, model_type: str, num_tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "architectures": [name],
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "vocab_size": num_tokens,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **more,
    }


def llama(folder: Path, dtype: str) -> None:
    """Like Llama 3: long waves are stretched, words that are tokens stay whole."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|odd|>"]
    count = write_byte_level(folder, specials, specials[0], specials[2], pattern=TRIPLES, ignore_merges=True)
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    scaling["original_max_position_embeddings"] = 128
    made = config("LlamaForCausalLM", "llama", count, rope_theta=500_000.0, rope_scaling=scaling)
    ids = {"bos_token_id": count - 4, "eos_token_id": [count - 3, count - 2]}
    write_json(folder / "config.json", made | ids | {"attention_bias": False, "mlp_bias": False})
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9, **ids})
    write_weights(folder, decoder_weights(count, HIDDEN // HEADS), dtype, num_shards=2)


def mistral(folder: Path, dtype: str) -> None:
    """With SentencePiece, and heads of a length of their own, as in Nemo."""
    count = write_sentencepiece(folder, ["<s>", "</s>"], ["[INST]", "\u2581user\u2581"], begins_with_space=True)
    more = {"rope_theta": 10_000.0, "head_dim": 32, "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2}
    write_json(folder / "config.json", config("MistralForCausalLM", "mistral", count, **more))
    write_weights(folder, decoder_weights(count, 32), dtype)


def qwen2(folder: Path, dtype: str) -> None:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
    count = write_byte_level(folder, specials, None, specials[2], pattern=DIGITS)
    more = {
        "rope_theta": 1_000_000.0,
        "bos_token_id": count - 4,
        "eos_token_id": count - 2,
        "use_sliding_window": False,
    }
    # More embeddings than tokens, as all of this family have.
    rows = count + 13
    write_json(folder / "config.json", config("Qwen2ForCausalLM", "qwen2", rows, **more))
    generation = {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    write_json(folder / "generation_config.json", generation)
    write_weights(folder, decoder_weights(rows, HIDDEN // HEADS, bias=True), dtype)


def qwen3(folder: Path, dtype: str) -> None:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
    count = write_byte_level(folder, specials, None, specials[2], pattern=DIGITS)
    more = {"rope_theta": 1_000_000, "head_dim": 32, "tie_word_embeddings": True, "eos_token_id": count - 2}
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    write_json(folder / "config.json", config("Qwen3ForCausalLM", "qwen3", count, rope_scaling=scaling, **more))
    weights = decoder_weights(count, 32, tied=True)
    for layer in range(LAYERS):
        weights |= {f"model.layers.{layer}.self_attn.{part}_norm.weight": (32,) for part in "qk"}
    write_weights(folder, weights, dtype)


def gemma_weights(count: int, norms: tuple[str, ...]) -> Weights:
    weights = decoder_weights(count, 32, tied=True)
    for layer in range(LAYERS):
        weights |= {f"model.layers.{layer}.{norm}.weight": (HIDDEN,) for norm in norms}
    return weights


def gemma2(folder: Path, dtype: str) -> None:
    count = write_sentencepiece(folder, ["<bos>", "<eos>"], ["<start_of_turn>", "<unused1>"], begins_with_space=False)
    more = {"head_dim": 32, "sliding_window": 64, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    made = config("Gemma2ForCausalLM", "gemma2", count, rope_theta=10_000.0, query_pre_attn_scalar=32, **more)
    write_json(folder / "config.json", made | {"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2})
    norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    write_weights(folder, gemma_weights(count, norms), dtype)


def gemma3(folder: Path, dtype: str) -> None:
    count = write_sentencepiece(folder, ["<bos>", "<eos>"], ["<start_of_turn>", "<unused1>"], begins_with_space=False)
    more = {"head_dim": 32, "sliding_window": 64, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
    made = config("Gemma3ForCausalLM", "gemma3_text", count, query_pre_attn_scalar=32, sliding_window_pattern=2, **more)
    write_json(folder / "config.json", made | {"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": [2, 3]})
    weights = gemma_weights(count, ("pre_feedforward_layernorm", "post_feedforward_layernorm"))
    for layer in range(LAYERS):
        weights |= {f"model.layers.{layer}.self_attn.{part}_norm.weight": (32,) for part in "qk"}
    write_weights(folder, weights, dtype)


def phi3(folder: Path, dtype: str) -> None:
    count = write_sentencepiece(
        folder, ["<s>", "</s>"], ["<|endoftext|>", "<|assistant|>"], begins_with_space=True, num_special=2
    )
    factors = {"short_factor": [1.0 + at / 10 for at in range(8)], "long_factor": [2.0 + at for at in range(8)]}
    made = config("Phi3ForCausalLM", "phi3", count, rope_theta=10_000.0, sliding_window=128, pad_token_id=0)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", tokenizer | {"eos_token": "<|endoftext|>"})
    made |= {"original_max_position_embeddings": 128, "rope_scaling": {**factors, "type": "longrope"}}
    write_json(folder / "config.json", made | {"bos_token_id": 1, "eos_token_id": count - 2})
    write_weights(folder, decoder_weights(count, HIDDEN // HEADS, fused=True), dtype)


def bert(folder: Path, dtype: str) -> None:
    count = write_word_pieces(folder)
    made = config(
        "BertModel", "bert", count, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=0
    )
    del made["rms_norm_eps"], made["num_key_value_heads"]
    write_json(folder / "config.json", made)
    write_json(
        folder / "modules.json", [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    )
    (folder / "1_Pooling").mkdir()
    write_json(
        folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    )
    weights: Weights = {f"embeddings.{name}_embeddings.weight": (size, HIDDEN) for name, size in
                        (("word", count), ("position", 512), ("token_type", 2))}  # fmt: skip
    weights |= {f"embeddings.LayerNorm.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        linear = {"attention.self.query": (HIDDEN, HIDDEN), "attention.self.key": (HIDDEN, HIDDEN)}
        linear |= {"attention.self.value": (HIDDEN, HIDDEN), "attention.output.dense": (HIDDEN, HIDDEN)}
        linear |= {"intermediate.dense": (INNER, HIDDEN), "output.dense": (HIDDEN, INNER)}
        for name, shape in linear.items():
            weights |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights |= {f"{at}.{name}.weight": (HIDDEN,), f"{at}.{name}.bias": (HIDDEN,)}
    weights |= {"pooler.dense.weight": (HIDDEN, HIDDEN), "pooler.dense.bias": (HIDDEN,)}
    write_weights(folder, weights, dtype)


FAMILIES: dict[str, Callable[[Path, str], None]] = {
    each.__name__: each for each in (llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, bert)
}
