"""Checkpoints of each family become what llama.cpp's own converter makes of them: see reference.py."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shimmy.convert.conversion import plan, write
from shimmy.models.checkpoint import files_of
from tests.convert.checkpoints import FAMILIES, write_checkpoint
from tests.convert.reference import GOLDEN, TYPES, digest
from tests.fakes.gguf_reader import ReadFile, read

# What it guesses from the names of folders, and says of its own habits.
NOT_OURS = ("general.size_label", "general.basename", "general.finetune", "general.version", "general.organization")
# What llama.cpp would take for granted anyway, and we say.
OURS = {
    "tokenizer.ggml.add_space_prefix": True,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_eos_token": False,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.eos_token_id": 2,
}


def converted(checkpoint: Path) -> ReadFile:
    found = files_of(str(checkpoint), os.listdir(checkpoint))
    assert found is not None and found[1] is None
    target = checkpoint.with_suffix(".gguf")
    with target.open("wb") as sink:
        write(plan(found[0], checkpoint.name), sink, lambda fraction: None)
    return read(target)


def golden(family: str, kind: str) -> dict[str, Any]:
    known: dict[str, Any] = json.loads((GOLDEN / f"{family}.json").read_text())[kind]
    return known


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_metadata(tmp_path: Path, family: str, kind: str) -> None:
    expected = {key: value for key, value in golden(family, kind)["metadata"].items() if key not in NOT_OURS}
    made = digest(converted(write_checkpoint(tmp_path, family, kind)))["metadata"]
    name = made.pop("general.name")
    assert name == f"Tiny-{family}"
    expected.pop("general.name")
    more = {key: made.pop(key) for key in set(made) - set(expected)}
    assert made == expected
    assert more == {key: OURS[key] for key in more}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_tensors(tmp_path: Path, family: str, kind: str) -> None:
    expected = golden(family, kind)["tensors"]
    made = digest(converted(write_checkpoint(tmp_path, family, kind)))["tensors"]
    if family in ("gemma2", "gemma3") and kind == "F16":
        # It adds the one in 16 bits, which rounds; what we have is exact, and checked with the other types.
        made, expected = (
            {name: tensor[:2] if name.endswith("_norm.weight") else tensor for name, tensor in each.items()}
            for each in (made, expected)
        )
    assert made == expected
