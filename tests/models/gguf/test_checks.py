"""Which sound headers make a model that can be served."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf import Header, check_servable, kind_of, read_header
from tests.fakes.gguf_writer import GGUF, TensorSpec, model


def header(folder: Path, file: GGUF) -> Header:
    return read_header(str(file.write(folder / "m.gguf")))


def shards(folder: Path, count: int, claimed_tensors: int | None = None) -> list[Header]:
    first = model(split__count=count, split__no=0, split__tensors__count=claimed_tensors or count + 1)
    others = [
        GGUF({"split.count": count, "split.no": number}, [TensorSpec(f"blk.{number}.weight", (8,))])
        for number in range(1, count)
    ]
    return [header(folder, file) for file in [first, *others]]


def test_a_sound_model_passes(tmp_path: Path) -> None:
    headers = [header(tmp_path, model())]
    assert kind_of(headers) == "model"
    check_servable(headers)


@pytest.mark.parametrize(
    ("file", "kind", "reason"),
    [
        (GGUF({"general.architecture": "llama"}), "vocabulary", "not a model but a vocabulary"),
        (model(general__type="adapter"), "adapter", "not a model but an adapter"),
        (model(adapter__type="lora"), "adapter", "not a model but an adapter"),
        (model(general__type="mmproj"), "projector", "not a model but a projector"),
        (model(general__architecture="clip"), "projector", "not a model but a projector"),
        (model(general__type="imatrix"), "other", "not a model but auxiliary data"),
    ],
)
def test_other_kinds_of_file_are_told_apart(file: GGUF, kind: str, reason: str, tmp_path: Path) -> None:
    headers = [header(tmp_path, file)]
    assert kind_of(headers) == kind
    with pytest.raises(ModelInvalid) as error:
        check_servable(headers)
    assert error.value.message == reason


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"general__architecture": None}, "general.architecture is missing"),
        ({"llama__block_count": None}, "llama.block_count is missing, it has to be 1 to 512"),
        ({"llama__block_count": 0}, "llama.block_count is 0, it has to be 1 to 512"),
        ({"llama__block_count": 2**31}, "llama.block_count is 2147483648, it has to be 1 to 512"),
        ({"llama__block_count": "2"}, "llama.block_count is missing, it has to be 1 to 512"),
        (
            {"llama__attention__layer_norm_rms_epsilon": float("nan")},
            "llama.attention.layer_norm_rms_epsilon is nan, it has to be 0 or more",
        ),
        (
            {"llama__attention__layer_norm_epsilon": -1e-5},
            "llama.attention.layer_norm_epsilon is -1e-05, it has to be 0 or more",
        ),
        ({"tokenizer__ggml__tokens": None}, "it has no tokenizer"),
        ({"split__count": 4}, "made of 4 files, of which 1 would be loaded"),
    ],
)
def test_refuses_what_cannot_be_served(metadata: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid) as error:
        check_servable([header(tmp_path, model(**metadata))])
    assert error.value.message == reason


def test_the_vocabulary_has_to_fit_the_embedding(tmp_path: Path) -> None:
    file = model()
    file.tensors[0] = TensorSpec("token_embd.weight", (8, 259))
    with pytest.raises(ModelInvalid, match="the vocabulary has 260 tokens, token_embd.weight the shape"):
        check_servable([header(tmp_path, file)])


def test_whole_shards_pass(tmp_path: Path) -> None:
    check_servable(shards(tmp_path, 3))


def test_the_first_shard_may_hold_no_tensors(tmp_path: Path) -> None:
    headers = shards(tmp_path, 2, claimed_tensors=1)
    headers[0] = msgspec.structs.replace(headers[0], tensors=[])
    assert kind_of(headers) == "model"
    check_servable(headers)


def test_shards_have_to_be_in_order_and_complete(tmp_path: Path) -> None:
    headers = shards(tmp_path, 3)
    with pytest.raises(ModelInvalid, match="shard 3 of 3 lies in the place of shard 2"):
        check_servable([headers[0], headers[2], headers[1]])
    with pytest.raises(ModelInvalid, match="made of 3 files, of which 2 would be loaded"):
        check_servable(headers[:2])
    with pytest.raises(ModelInvalid, match="the shards hold 4 tensors of 9"):
        check_servable(shards(tmp_path, 3, claimed_tensors=9))
