"""What is told about a model from its headers."""

from pathlib import Path

import gguf
import pytest

from shimmy.models.facts import FILE_TYPES, Facts, inspect
from tests.fakes.gguf_writer import GGUF, TensorSpec, model


def test_facts_of_a_model(tmp_path: Path) -> None:
    path = model("Näme", general__file_type=15, tokenizer__chat_template="{{ x }}").write(tmp_path / "m.gguf")
    inspection = inspect([str(path)])
    assert inspection.invalid is None and inspection.lasting
    assert inspection.facts == Facts(
        architecture="llama",
        name="Näme",
        quantization="Q4_K_M",
        num_parameters=260 * 8 + 8,
        context_length=4096,
        num_layers=2,
        embedding_length=8,
        vocabulary_size=260,
        has_chat_template=True,
        tokenizer_model="llama",
        capabilities=("completion",),
    )


def test_facts_of_a_model_that_makes_vectors(tmp_path: Path) -> None:
    file = model(general__architecture="bert", bert__block_count=1, bert__pooling_type=1)
    facts = inspect([str(file.write(tmp_path / "m.gguf"))]).facts
    assert facts and (facts.pooling, facts.capabilities, facts.is_encoder) == ("mean", ("embedding",), True)


def test_what_the_header_does_not_say_is_none(tmp_path: Path) -> None:
    path = model(llama__context_length=None, general__name=None, general__file_type=0).write(tmp_path / "m.gguf")
    facts = inspect([str(path)]).facts
    assert facts and (facts.context_length, facts.name, facts.has_chat_template) == (None, None, False)
    assert facts.quantization == "F32"


@pytest.mark.parametrize("file_type", [None, 1024])
def test_the_commonest_tensor_type_stands_for_an_unnamed_quantization(file_type: int | None, tmp_path: Path) -> None:
    file = model(general__file_type=file_type)
    file.tensors.append(TensorSpec("blk.0.weight", (32, 1000), type_code=8, size_bytes=34_000))
    facts = inspect([str(file.write(tmp_path / "m.gguf"))]).facts
    assert facts and facts.quantization == "Q8_0"


def test_file_types_agree_with_the_gguf_package() -> None:
    theirs = {kind.value: kind.name.split("_", 1)[1] for kind in gguf.LlamaFileType if kind.value < 1024}
    assert {code: FILE_TYPES[code] for code in theirs} == theirs


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    whole, broken = model().write(tmp_path / "a.gguf"), tmp_path / "b.gguf"
    broken.write_bytes(b"GGUF")
    inspection = inspect([str(whole), str(broken)])
    assert inspection.invalid == "shard 2: truncated: the header goes on to byte 24, the file has 4"
    assert inspection.facts is None and inspection.lasting


def test_a_file_that_cannot_be_read_may_be_readable_later(tmp_path: Path) -> None:
    assert not inspect([str(tmp_path / "absent.gguf")]).lasting


def test_a_file_that_cannot_be_served_still_has_facts(tmp_path: Path) -> None:
    inspection = inspect([str(GGUF({"general.architecture": "llama"}).write(tmp_path / "v.gguf"))])
    assert inspection.kind == "vocabulary" and inspection.facts and inspection.facts.architecture == "llama"
