"""What is made of checkpoints that differ from the published ones, and what is refused before anything is written."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shimmy.convert.conversion import Plan, plan
from shimmy.convert.tokenizer.byte_level import RULES
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import files_of
from tests.convert.checkpoints import (
    HIDDEN,
    decoder_weights,
    write_checkpoint,
    write_json,
    write_same_as_json,
    write_weights,
)
from tests.models.test_checkpoint import change


def planned(folder: Path) -> Plan:
    found = files_of(str(folder), os.listdir(folder))
    assert found is not None and found[1] is None
    return plan(found[0], folder.name)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelInvalid) as caught:
        planned(folder)
    return caught.value.message


def keys(folder: Path) -> dict[str, Any]:
    return dict(planned(folder).metadata)


def names(folder: Path) -> set[str]:
    return {tensor.entry.name for tensor in planned(folder).tensors}


def rename(folder: Path, new: Callable[[str], str]) -> None:
    """The tensors, within the header: none of its bytes is needed twice."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = {new(name): value for name, value in json.loads(content[8 : 8 + length]).items()}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_positions_as_newer_versions_say_them(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path, family)
    before = keys(folder)
    config = json.loads((folder / "config.json").read_text())
    base = config.pop("rope_theta")
    if family == "llama":
        config["rope_parameters"] = {**config.pop("rope_scaling"), "rope_theta": base}
    else:
        local = {"rope_type": "default", "rope_theta": config.pop("rope_local_base_freq")}
        config["rope_parameters"] = {
            "full_attention": {"rope_type": "default", "rope_theta": base},
            "sliding_attention": local,
        }
    write_json(folder / "config.json", config)
    assert keys(folder) == before


def test_a_gemma_3_that_sees(tmp_path: Path) -> None:
    """As the published ones are: what reads text is inside, and much of it left unsaid."""
    folder = write_checkpoint(tmp_path, "gemma3")
    before, tensors = keys(folder), names(folder)
    inner = json.loads((folder / "config.json").read_text())
    del inner["architectures"]
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": inner, "vision_config": {}}
    write_json(folder / "config.json", outer)
    rename(folder, lambda name: f"language_model.{name}" if name.startswith("model.") else name)
    assert keys(folder) == before and names(folder) == tensors
    rename(folder, lambda name: name.replace("language_model.model.", "model.language_model."))
    rename(folder, lambda name: "model.vision_tower.x.weight" if name.endswith("1.mlp.up_proj.weight") else name)
    assert names(folder) == tensors - {"blk.1.ffn_up.weight"}


def test_outputs_that_are_tied_to_the_embeddings_are_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    assert "output.weight" in names(folder)
    change(folder / "config.json", tie_word_embeddings=True)
    assert "output.weight" not in names(folder)


def test_names_without_the_model_before_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen3")
    before = names(folder)
    rename(folder, lambda name: name.removeprefix("model."))
    assert names(folder) == before
    change(folder / "config.json", architectures=["Qwen3Model"], is_causal=False)
    assert names(folder) == before and keys(folder)["qwen3.attention.causal"] is False


def test_what_is_computed_anyway_is_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    rename(folder, lambda name: "model.layers.0.self_attn.rotary_emb.inv_freq" if name == "lm_head.weight" else name)
    assert "output.weight" not in names(folder)


def test_tensors_that_are_not_known(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    rename(folder, lambda name: "model.layers.0.mlp.experts.0.weight" if name == "lm_head.weight" else name)
    assert "tensor model.layers.0.mlp.experts.0.weight is none of those that llama.cpp's llama has" in refusal(folder)
    rename(folder, lambda name: "layers.01.mlp.up_proj.weight" if ".experts." in name else name)
    assert "two tensors would be called blk.1.ffn_up.weight" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_attention_heads": 5}, "rows for 5 heads"),
        ({"num_key_value_heads": 3}, "rows for 3 heads"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "cannot be converted: 'dynamic'"),
        ({"rope_scaling": 7}, "how positions are rotated is said by 7"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
        ({"num_hidden_layers": 513}, "num_hidden_layers is 513"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but layer 2 has no tensors"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1, but there are tensors of 2 layers"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path: Path, values: dict[str, Any], reason: str) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    change(folder / "config.json", **values)
    assert reason in refusal(folder)


def test_fewer_embeddings_than_tokens(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    for path in folder.glob("model*"):
        path.unlink()
    write_weights(folder, decoder_weights(300, HIDDEN // 4), "F16")
    assert "its embeddings are those of 300" in refusal(folder)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its tokenizer is of the kind BPE, which cannot be converted"),
        ({"normalizer": {"type": "Lowercase"}}, "changes texts in a way that llama.cpp has not: Lowercase"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": 7}}, "pretokenizers is no list"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}, "its tokenizer is of the kind Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}}}, "it has a token -1|has a token -1"),
        ({"model": {"type": "BPE", "vocab": {"a": "b"}}}, "tokenizer.json cannot be read"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [["a"]]}}, "a merge is ['a'], not a pair"),
        ({"model": 7}, "tokenizer.json cannot be read"),
    ],
)
def test_tokenizers_that_are_refused(tmp_path: Path, step: dict[str, Any], reason: str) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    change(folder / "tokenizer.json", **step)
    said = refusal(folder)
    assert any(part in said for part in reason.split("|")), said


def test_a_rule_for_words_that_has_no_name(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace(r"\\p{N}|", r"\\p{N}{1,2}|"))
    assert "by a rule that llama.cpp has no name for: split (?i:" in refusal(folder)


def step_of(kind: str, said: str) -> dict[str, Any]:
    if kind == "split":
        return {"type": "Split", "pattern": {"Regex": said}, "behavior": "Isolated", "invert": False}
    if kind == "digits":
        return {"type": "Digits", "individual_digits": True}
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": said == "of words"}


@pytest.mark.parametrize(("rule", "ignores_merges", "name"), RULES, ids=[name for *_, name in RULES])
def test_each_rule_for_words(
    tmp_path: Path, rule: list[tuple[str, str]], ignores_merges: bool | None, name: str
) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    for ignores in (True, False):
        parts = {"type": "Sequence", "pretokenizers": [step_of(*step) for step in rule]}
        change(folder / "tokenizer.json", pre_tokenizer=parts, model={**model, "ignore_merges": ignores})
        if ignores_merges in (None, ignores):
            assert keys(folder)["tokenizer.ggml.pre"] == name
        elif name not in ("llama-bpe", "dbrx"):
            assert "llama.cpp has no name for" in refusal(folder)


@pytest.mark.parametrize("damage", [b"", b"\x0a\xff\xff\xff\xff", b"\x0f", b"\x80" * 20, b"no tokenizer at all"])
def test_a_damaged_tokenizer_model(tmp_path: Path, damage: bytes) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    (folder / "tokenizer.model").write_bytes(damage)
    assert "tokenizer.model is" in refusal(folder)


def test_merges_say_what_scores_do(tmp_path: Path) -> None:
    """Without tokenizer.model the order of the merges has to do."""
    folder = write_checkpoint(tmp_path, "mistral")
    known = keys(folder)
    write_same_as_json(folder, ["<s>", "</s>"], ["[INST]", "\u2581user\u2581"])
    made = keys(folder)
    for key in ("tokens", "token_type", "model", "add_space_prefix", "bos_token_id", "eos_token_id"):
        assert made[f"tokenizer.ggml.{key}"] == known[f"tokenizer.ggml.{key}"], key
    scores, expected = (each["tokenizer.ggml.scores"] for each in (made, known))
    merged = [id for id in range(len(scores)) if 0 >= scores[id] > -900 and known["tokenizer.ggml.token_type"][id] == 1]
    assert [scores[id] for id in merged] == [expected[id] for id in merged] and len(merged) > 80


def test_several_chat_templates(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    several = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}, {"name": 7}]
    change(folder / "tokenizer_config.json", chat_template=several)
    made = keys(folder)
    assert (made["tokenizer.chat_template"], made["tokenizer.chat_template.tool_use"]) == ("A", "B")
    assert made["tokenizer.chat_templates"] == ["tool_use"]
    change(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text("C")
    assert keys(folder)["tokenizer.chat_template"] == "C"
