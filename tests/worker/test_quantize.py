"""Quantizing with llama.cpp itself: what it says on the way, what comes of it, and what is said when it cannot."""

import os
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.core import ipc
from shimmy.core.errors import ModelFailed, ShimmyError, StoreFull
from shimmy.hardware import cpu
from shimmy.models.facts import FILE_TYPES
from shimmy.models.gguf import read_header
from shimmy.worker import quantize as module
from shimmy.worker.llama import backend
from shimmy.worker.llama.model import Model
from shimmy.worker.llama.quantize import Conversion, Outcome, plan, write
from shimmy.worker.quantize import quantize
from tests.worker.conftest import DEMO

pytestmark = pytest.mark.model

NUMBERS = {name: number for number, name in FILE_TYPES.items()}
Usage = namedtuple("Usage", "total used free")


def job(folder: Path, kind: str, *, source: Path = DEMO, allowed: bool = True) -> ipc.Quantize:
    target, partial = str(folder / "out.gguf"), str(folder / ".partial")
    return ipc.Quantize(str(source), target, partial, NUMBERS[kind], num_threads=2, allow_requantize=allowed)


def ignore(progress: ipc.QuantizeProgress) -> None:
    pass


@pytest.fixture(scope="module")
def q4_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("q4_0")
    quantize(job(folder, "Q4_0"), ignore)
    return folder / "out.gguf"


def test_progress_and_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROGRESS_INTERVAL_SECONDS", 0.0)
    told: list[ipc.QuantizeProgress] = []
    done = quantize(job(tmp_path, "Q4_0"), told.append)
    num_tensors = len(read_header(str(DEMO)).tensors)
    assert told == [ipc.QuantizeProgress(number, num_tensors) for number in range(num_tensors)]
    # The token embeddings are 576 wide, which Q6_K cannot be.
    assert (done.num_tensors, done.num_fallbacks) == (num_tensors, 1)
    assert os.listdir(tmp_path) == ["out.gguf"]
    assert done.target_bytes == (tmp_path / "out.gguf").stat().st_size
    assert read_header(str(tmp_path / "out.gguf")).integer("general.file_type") == NUMBERS["Q4_0"]


def test_progress_is_not_told_for_every_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PROGRESS_INTERVAL_SECONDS", 3600.0)
    told: list[ipc.QuantizeProgress] = []
    quantize(job(tmp_path, "Q4_0"), told.append)
    assert len(told) == 1


def test_the_plan_knows_the_size(q4_0: Path) -> None:
    backend.start()
    planned = plan(Conversion(str(DEMO), NUMBERS["Q4_0"], 2, True))
    written = sum(tensor.size_bytes for tensor in read_header(str(q4_0)).tensors)
    assert planned.num_fallbacks == 1 and abs(planned.tensor_bytes - written) <= 10_486


def test_without_room_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 50_000_000))
    monkeypatch.setattr(module, "write", None)
    with pytest.raises(StoreFull, match=r"89,9\d\d,\d\d\d bytes, and .* has room for 50,000,000"):
        quantize(job(tmp_path, "Q4_0"), ignore)


def test_what_llama_cpp_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match=r"^requantizing from type q4_1 is disabled$"):
        quantize(job(tmp_path, "Q4_0", allowed=False), ignore)
    with pytest.raises(ModelFailed, match=r"^this quantization requires an imatrix!$"):
        quantize(job(tmp_path, "IQ2_XS"), ignore)
    assert os.listdir(tmp_path) == []


def test_a_file_that_comes_meanwhile_is_left(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"

    def interfere(progress: ipc.QuantizeProgress) -> None:
        target.write_text("other")

    with pytest.raises(ShimmyError, match="has come into being meanwhile"):
        quantize(job(tmp_path, "Q4_0"), interfere)
    assert (os.listdir(tmp_path), target.read_text()) == (["out.gguf"], "other")


def test_a_folder_that_goes_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def remove(progress: ipc.QuantizeProgress) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises(ShimmyError, match=r"out.gguf cannot be written: No such file"):
        quantize(job(folder, "Q4_0"), remove)


def test_a_file_that_is_not_whole_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should llama.cpp ever miss a write that fails."""

    def cut(conversion: Conversion, path: str, on_progress: Callable[[int, int], None]) -> Outcome:
        outcome = write(conversion, path, on_progress)
        os.truncate(path, 80_000_000)
        return outcome

    monkeypatch.setattr(module, "write", cut)
    with pytest.raises(ShimmyError, match="not been written whole: truncated"):
        quantize(job(tmp_path, "Q4_0"), ignore)
    assert os.listdir(tmp_path) == []


def repacked_megabytes(path: Path) -> float:
    """How much of a model llama.cpp rearranges for the faster kernels when it loads it."""
    backend.start()
    heard: list[str] = []
    with backend.listening(heard.append):
        Model([str(path)], lambda fraction: None)
    sizes = re.findall(r"CPU_REPACK model buffer size = +([\d.]+) MiB", "".join(heard))
    return sum(map(float, sizes))


def megabytes_of(path: Path, tensor_type: str) -> float:
    return sum(tensor.size_bytes for tensor in read_header(str(path)).tensors if tensor.type == tensor_type) / (1 << 20)


@pytest.mark.skipif(not cpu.flags() & {"avx2", "asimddp"}, reason="there are no such kernels for this processor")
def test_q4_0_gets_the_repacked_kernels(q4_0: Path) -> None:
    assert megabytes_of(q4_0, "Q4_0") > 50
    assert repacked_megabytes(q4_0) == pytest.approx(megabytes_of(q4_0, "Q4_0"), abs=0.01)


@pytest.mark.skipif(not cpu.flags() & {"avx2"}, reason="there are no such kernels for this processor")
def test_q4_1_gets_ours() -> None:
    """build/patches/ggml-repack-q4-1.patch"""
    assert repacked_megabytes(DEMO) == pytest.approx(megabytes_of(DEMO, "Q4_1"), abs=0.01)
