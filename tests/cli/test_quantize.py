"""`quantize`: what is asked of a worker, what is said of its answer, and that nothing is ever left of half a file."""

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.models.gguf import read_header
from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import TensorSpec, model
from tests.program import DEMO, LIMIT_SECONDS, run, start

pytestmark = pytest.mark.program

Q8_0 = 8


@pytest.fixture
def source(machine: Path) -> Path:
    return scripted(machine, "ready")


def scripted(folder: Path, order: str, name: str = "in.gguf") -> Path:
    """A sound model that tells the fake worker how quantizing it goes."""
    return model(fake__load=order).write(folder / name)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_writes_the_file_and_says_how_large_it_is(fake: None, source: Path, invoke: Invoke) -> None:
    result = invoke("quantize", str(source), "out.gguf", "q4_k_m")
    assert (result.exit_code, result.stdout.split(" in ")[0]) == (0, "ok: wrote out.gguf")
    assert result.stdout.endswith(" s: 14.7kB -> 9B, 0.00 of the size\n")
    assert result.stderr == "1 of 4 tensors got a larger type, because this one cannot have their shape\n"
    assert (source.parent / "out.gguf").read_text() == "quantized"


def test_no_file_is_replaced_unless_asked_for(fake: None, source: Path, invoke: Invoke) -> None:
    target = source.parent / "out.gguf"
    target.write_text("mine")
    refused = invoke("quantize", str(source), str(target), "Q4_0")
    assert (refused.exit_code, refused.stdout) == (2, "") and "--force replaces it" in refused.stderr
    assert target.read_text() == "mine"
    assert invoke("quantize", str(source), str(target), "Q4_0", "--force").exit_code == 0
    assert target.read_text() == "quantized"


@pytest.mark.parametrize("name", ["in.gguf", "link.gguf", "twin.gguf"])
def test_a_file_is_never_written_over_itself(name: str, fake: None, source: Path, invoke: Invoke) -> None:
    before = source.read_bytes()
    (source.parent / "link.gguf").symlink_to(source)
    os.link(source, source.parent / "twin.gguf")
    result = invoke("quantize", str(source), name, "Q4_0", "--force")
    assert result.exit_code == 2 and "the same file as IN" in result.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("out.gguf", "Q4", "'Q4' is none of F32, F16, Q4_0,"),
        ("out.gguf", "iq2_xs", "IQ2_XS takes an importance matrix"),
        ("out.gguf", "nvfp4", "'nvfp4' is none of"),
        ("nowhere/out.gguf", "Q4_0", "there is no folder"),
        (".", "Q4_0", "is a directory"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    target: str, kind: str, message: str, fake: None, source: Path, invoke: Invoke
) -> None:
    result = invoke("quantize", str(source), target, kind)
    assert result.exit_code == 2 and message in result.stderr


def test_the_page_names_every_type(source: Path, invoke: Invoke) -> None:
    offered = invoke("quantize", str(source), "out.gguf", "Q4").stderr.partition("is none of ")[2]
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    section = page.partition("TYPE is ")[2].partition("## ")[0]
    kind = r"\b(?:B?F\d+|I?Q\d\w+|TQ\w+|MXFP4_MOE)\b"
    assert sorted(re.findall(kind, section)) == sorted(re.findall(kind, offered))


def test_a_source_that_is_not_there_is_a_usage_error(machine: Path, invoke: Invoke) -> None:
    assert invoke("quantize", "absent.gguf", "out.gguf", "Q4_0").exit_code == 2


@pytest.mark.parametrize(
    ("content", "reason"), [(b"GGUF", "truncated"), (b"#!/bin/sh\n" * 4, "not a GGUF file")], ids=["cut", "other"]
)
def test_a_source_that_is_no_model(content: bytes, reason: str, machine: Path, invoke: Invoke) -> None:
    (machine / "in.gguf").write_bytes(content)
    result = invoke("quantize", "in.gguf", "out.gguf", "Q4_0")
    assert result.exit_code == 5 and result.stderr.startswith("shimmy: in.gguf: ") and reason in result.stderr


def test_of_shards_all_must_be_there(machine: Path, invoke: Invoke) -> None:
    shard = scripted(machine, "ready", "in-00001-of-00002.gguf")
    result = invoke("quantize", str(shard), "out.gguf", "Q4_0")
    assert result.exit_code == 5 and "1 of 2 shards are missing" in result.stderr


def test_quantizing_again_must_be_wanted(fake: None, machine: Path, invoke: Invoke) -> None:
    file = model()
    file.tensors.append(TensorSpec("blk.0.weight", (32, 10), type_code=Q8_0, size_bytes=340))
    file.write(machine / "in.gguf")
    refused = invoke("quantize", "in.gguf", "out.gguf", "Q4_0")
    assert refused.exit_code == 2 and "quantized already, to Q8_0" in refused.stderr
    assert "--allow-requantize" in refused.stderr and names(machine) == ["in.gguf", "models"]
    assert invoke("quantize", "in.gguf", "out.gguf", "Q4_0", "--allow-requantize").exit_code == 0


@pytest.mark.parametrize(
    ("order", "code", "message"),
    [
        ("crash SIGSEGV", 1, "the worker process ended, and did not write the whole file (SIGSEGV)"),
        ("fail model_failed too odd", 5, "too odd"),
        ("fail internal_error no room", 1, "no room"),
    ],
)
def test_a_worker_that_fails_leaves_nothing(
    order: str, code: int, message: str, fake: None, machine: Path, invoke: Invoke
) -> None:
    scripted(machine, order)
    result = invoke("quantize", "in.gguf", "out.gguf", "Q4_0")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"shimmy: {message}\n")
    assert names(machine) == ["in.gguf", "models"]


@pytest.mark.parametrize("option", [["--threads", "0"], ["--threads", "many"]])
def test_threads_are_a_number(option: list[str], source: Path, invoke: Invoke) -> None:
    assert invoke("quantize", str(source), "out.gguf", "Q4_0", *option).exit_code == 2


# With llama.cpp


@pytest.mark.model
@pytest.mark.parametrize("kind", ["q4_0", "Q8_0"])
def test_the_result_answers(kind: str, machine: Path, invoke: Invoke) -> None:
    result = invoke("quantize", str(DEMO), f"out.{kind}.gguf", kind, "--allow-requantize")
    assert result.exit_code == 0, result.stderr
    types = [tensor.type for tensor in read_header(f"out.{kind}.gguf").tensors]
    assert types.count(kind.upper()) > 200
    prompt = ["--raw", "--prompt", "1, 2, 3, 4, 5,", "--temperature", "0", "--max-tokens", "6"]
    answer = invoke("generate", f"out.{kind.lower()}", "--model-path", f"out.{kind}.gguf", *prompt)
    assert "6, 7" in answer.stdout, answer.stderr
    # As if by any other program.
    umask = os.umask(0o022)
    os.umask(umask)
    assert os.stat(f"out.{kind}.gguf").st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.model
def test_a_disk_that_gets_full_leaves_nothing(tmp_path: Path) -> None:
    done = run(
        *("quantize", str(DEMO), str(tmp_path / "out.gguf"), "Q8_0", "--allow-requantize"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60 << 20, 60 << 20)),
    )
    assert done.returncode == 1 and "is the disk full?" in done.stderr
    assert names(tmp_path) == []


@pytest.mark.model
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="what a process writes is seen in /proc")
@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda program, worker: program.send_signal(signal.SIGINT), 130),
        (lambda program, worker: program.kill(), -signal.SIGKILL),
        (lambda program, worker: program.terminate(), -signal.SIGTERM),
        (lambda program, worker: os.kill(worker, signal.SIGKILL), 1),
    ],
    ids=["interrupted", "killed", "terminated", "worker killed"],
)
def test_however_it_ends_nothing_is_left(
    end: Callable[["subprocess.Popen[str]", int], None], code: int, tmp_path: Path
) -> None:
    # Takes seconds, and more of them on one core.
    work = ["Q6_K", "--allow-requantize", "--threads", "1"]
    program = start("quantize", str(DEMO), str(tmp_path / "out.gguf"), *work, stderr=-3)
    try:
        worker = writing_worker(program)
        end(program, worker)
        assert program.wait(LIMIT_SECONDS) == code
    finally:
        program.kill()
        program.wait()
    deadline = time.monotonic() + LIMIT_SECONDS
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker works on"
        time.sleep(0.01)
    assert names(tmp_path) == []


def writing_worker(program: "subprocess.Popen[str]") -> int:
    """Its process id, once some of the file is there."""
    children = ["ps", "-o", "pid=", "--ppid", str(program.pid)]
    while program.poll() is None:
        for pid in subprocess.run(children, capture_output=True, text=True).stdout.split():
            if written_bytes(int(pid)) > 1 << 20:
                return int(pid)
        time.sleep(0.01)
    raise AssertionError("it ended before it could be stopped")


def written_bytes(pid: int) -> int:
    try:
        nameless = [path for path in Path(f"/proc/{pid}/fd").iterdir() if "(deleted)" in os.readlink(path)]
        return max((path.stat().st_size for path in nameless), default=0)
    except OSError:
        return 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False
