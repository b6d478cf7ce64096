"""What is made of checkpoints is kept: made once, made anew when a file has changed, and never there in parts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from shimmy.core import ipc
from shimmy.core.errors import ModelInvalid, ShimmyError, StoreFull
from shimmy.models.checkpoint import files_of
from shimmy.models.gguf import read_header
from shimmy.worker import convert as writing
from shimmy.worker import converted as converting
from shimmy.worker.convert import convert
from shimmy.worker.converted import converted
from tests.convert.checkpoints import write_checkpoint, write_weights

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shimmy" / "converted"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path, "mistral")


def paths(folder: Path) -> list[str]:
    found = files_of(str(folder), os.listdir(folder))
    assert found is not None and found[1] is None
    return list(found[0])


def ignore(fraction: float) -> None:
    pass


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*.gguf"))


def test_made_once(checkpoint: Path, cache: Path) -> None:
    told: list[float] = []
    made = converted(paths(checkpoint), told.append)
    assert told == sorted(told) and 0 < len(told) and told[-1] <= 1
    assert read_header(made).architecture == "llama"
    again: list[float] = []
    assert converted(paths(checkpoint), again.append) == made and again == []
    assert kept(cache) == [os.path.basename(made)]
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model", "tokenizer_config.json"])
def test_made_anew_when_a_file_has_changed(checkpoint: Path, cache: Path, name: str) -> None:
    before = converted(paths(checkpoint), ignore)
    os.utime(checkpoint / name, (1000, 1000))
    after = converted(paths(checkpoint), ignore)
    assert after != before and kept(cache) == [os.path.basename(after)]


def test_what_cannot_be_converted_leaves_nothing(checkpoint: Path, cache: Path) -> None:
    (checkpoint / "tokenizer.model").write_bytes(b"\x0f")
    with pytest.raises(ModelInvalid, match=r"tokenizer\.model is damaged"):
        converted(paths(checkpoint), ignore)
    assert kept(cache) == []


def test_a_weight_that_shrinks_meanwhile(checkpoint: Path, cache: Path) -> None:
    def shrink(fraction: float) -> None:
        os.truncate(checkpoint / "model.safetensors", 5000)

    with pytest.raises(ModelInvalid, match="became shorter while it was read"):
        converted(paths(checkpoint), shrink)
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".source")] == []


def test_a_folder_that_changes_meanwhile(checkpoint: Path, cache: Path) -> None:
    with pytest.raises(ModelInvalid, match="has changed while it was converted"):
        converted(paths(checkpoint), lambda fraction: os.utime(checkpoint / "config.json", (1000, 1000)))
    assert kept(cache) == []


def test_without_room_what_was_not_used_for_long_goes(
    checkpoint: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [write_checkpoint(tmp_path / name, "mistral") for name in ("old", "older", "new")]
    made = [converted(paths(other), ignore) for other in others]
    for age, entry in ((20, made[0]), (30, made[1]), (10, made[2])):
        source = f"{entry.rpartition('-')[0]}.source"
        os.utime(source, (time.time() - age, time.time() - age))
    free = iter([Usage(0, 0, 0), Usage(0, 0, 0), Usage(0, 0, 1 << 40), Usage(0, 0, 1 << 40)])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: next(free))
    latest = converted(paths(checkpoint), ignore)
    assert kept(cache) == sorted(os.path.basename(path) for path in (made[2], latest))


def test_what_was_made_of_folders_that_are_gone_goes(checkpoint: Path, tmp_path: Path, cache: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "mistral")
    converted(paths(other), ignore)
    shutil.rmtree(other)
    made = converted(paths(checkpoint), ignore)
    assert kept(cache) == [os.path.basename(made)] and len(list(cache.glob("*.source"))) == 1


def test_no_room_at_all(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 1000))
    with pytest.raises(StoreFull, match=r"the new file has [\d,]+ bytes, and .* has room for 1,000"):
        converted(paths(checkpoint), ignore)
    assert kept(cache) == []


def test_a_disk_that_fills_up(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write", full)
    with pytest.raises(StoreFull, match="cannot be written: No space left on device"):
        converted(paths(checkpoint), ignore)
    assert kept(cache) == []


def test_a_folder_that_others_may_write_to_is_not_used(
    checkpoint: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "elsewhere").mkdir()
    made = converted(paths(checkpoint), ignore)
    assert made.startswith(str(tmp_path / "elsewhere")) and kept(cache) == []


_CONVERT = (
    "import sys; from shimmy.worker.converted import converted; print(converted(sys.argv[1:], lambda fraction: None))"
)


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", _CONVERT, *paths(folder)], stdout=subprocess.PIPE, text=True)


def test_two_at_once_make_one(checkpoint: Path, cache: Path) -> None:
    running = [start(checkpoint) for _ in range(3)]
    said = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert [os.path.basename(path) for path in said] == kept(cache)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_who_waits_for_another_one_wakes_meanwhile(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would seem to hang."""
    import fcntl

    made = converted(paths(checkpoint), ignore)
    [lock] = cache.glob("*.source")
    woken: list[float] = []
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            woken.append(seconds)
            if len(woken) == 3:
                fcntl.flock(file, fcntl.LOCK_UN)

        monkeypatch.setattr(converting, "time", SimpleNamespace(sleep=sleep))
        assert converted(paths(checkpoint), ignore) == made
    assert len(woken) == 3


def test_a_kill_leaves_nothing_in_parts(tmp_path: Path, cache: Path) -> None:
    folder = write_checkpoint(tmp_path, "mistral")
    (folder / "model.safetensors").unlink()
    # Large enough to be caught at it.
    layers = {f"model.layers.{layer}.input_layernorm.weight": (4096,) for layer in range(2)}
    write_weights(folder, {"model.embed_tokens.weight": (380, 4096), "model.norm.weight": (4096,)} | layers, "BF16")
    for milliseconds in (0, 20, 60, 120, 200, 300):
        process = start(folder)
        time.sleep(0.2 + milliseconds / 1000)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        for name in kept(cache):
            assert read_header(str(cache / name)).architecture == "llama"
        shutil.rmtree(cache, ignore_errors=True)
    assert read_header(converted(paths(folder), ignore)).architecture == "llama"
    assert len(list(cache.iterdir())) == 2


def test_the_job_of_a_worker(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    told: list[ipc.LoadProgress] = []
    job = ipc.Convert(paths(checkpoint), str(target), str(tmp_path / ".partial"), "Some name")
    done = convert(job, told.append)
    header = read_header(str(target))
    assert (done.num_tensors, done.target_bytes) == (len(header.tensors), target.stat().st_size)
    assert header.text("general.name") == "Some name" and told
    with pytest.raises(ShimmyError, match="has come into being meanwhile"):
        convert(job, told.append)
