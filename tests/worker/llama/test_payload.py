"""Unpacking what the frozen program carries: whatever state the folder is in, the library that is opened is whole."""

import errno
import lzma
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.worker.llama import payload
from shimmy.worker.llama.payload import Payload

CONTENTS = {"libone.so": b"1" * 3000, "libtwo.so": os.urandom(200_000)}
FILES = {name: (len(content), zlib.crc32(content)) for name, content in CONTENTS.items()}
STREAM = lzma.compress(b"".join(CONTENTS.values()))
FOLDER = "native-abc"


def never() -> bytes:
    raise AssertionError("unpacked again")


def carried(*roots: Path, stream: Callable[[], bytes] = lambda: STREAM) -> Payload:
    return Payload("abc", FILES, stream, lambda: roots)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With everything unpacked in it."""
    carried(tmp_path / "shimmy").find("libone.so")
    return tmp_path / "shimmy"


def test_first_need_unpacks_everything_and_later_ones_nothing(tmp_path: Path) -> None:
    root = tmp_path / "cache" / "shimmy"
    path = carried(root).find("libtwo.so")
    assert path == root / FOLDER / "libtwo.so"
    assert {name: (root / FOLDER / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert carried(root, stream=never).find("libone.so").read_bytes() == CONTENTS["libone.so"]
    assert carried(root).names() == list(CONTENTS)
    assert root.stat().st_mode & 0o777 == (root / FOLDER).stat().st_mode & 0o777 == 0o700


def truncate(path: Path) -> None:
    os.truncate(path, 100)


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1234] ^= 1
    path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip_one_bit, make_folder])
def test_damage_heals(root: Path, damage: Callable[[Path], None]) -> None:
    (root / FOLDER / "libone.so").chmod(0o600)
    damage(root / FOLDER / "libone.so")
    assert carried(root).find("libone.so").read_bytes() == CONTENTS["libone.so"]
    assert not (root / FOLDER / "libone.so").is_symlink()


@pytest.fixture
def sealed(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With everything unpacked, and checked when it was old enough."""
    monkeypatch.setattr(payload, "CLOCK_SECONDS", 0.05)
    time.sleep(0.06)
    carried(root, stream=never).find("libone.so")
    carried(root, stream=never).find("libtwo.so")
    return root


needs_boot_id = pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="only Linux has it")


@needs_boot_id
def test_contents_are_read_once(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "_measure", never)
    assert carried(sealed, stream=never).find("libone.so").read_bytes() == CONTENTS["libone.so"]


def test_damage_that_leaves_size_and_time_alone_heals(sealed: Path) -> None:
    path = sealed / FOLDER / "libone.so"
    status = path.stat()
    path.chmod(0o700)
    flip_one_bit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    time.sleep(0.06)
    assert carried(sealed).find("libone.so").read_bytes() == CONTENTS["libone.so"]


def test_what_is_found_broken_is_not_sealed(sealed: Path) -> None:
    flip_one_bit(sealed / FOLDER / "libone.so")
    time.sleep(0.06)
    with pytest.raises(AssertionError, match="unpacked again"):
        carried(sealed, stream=never).find("libone.so")
    with pytest.raises(AssertionError, match="unpacked again"):
        carried(sealed, stream=never).find("libone.so")


@needs_boot_id
@pytest.mark.parametrize("other_start", ["", "another"], ids=["no name", "another start"])
def test_after_another_start_of_the_system_contents_are_read(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, other_start: str
) -> None:
    """A power cut can leave zeros behind, and the status as it was."""
    monkeypatch.setattr(payload, "_start_of_system", lambda: other_start)
    monkeypatch.setattr(payload, "_measure", lambda path: (0, 0))
    with pytest.raises(AssertionError, match="unpacked again"):
        carried(sealed, stream=never).find("libone.so")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"libone.so\n\n x", bytes(100)])
def test_a_damaged_seal_costs_time_only(sealed: Path, content: bytes) -> None:
    (sealed / FOLDER / ".seal").chmod(0o700)
    (sealed / FOLDER / ".seal").write_bytes(content)
    assert carried(sealed, stream=never).find("libone.so").read_bytes() == CONTENTS["libone.so"]


def test_an_open_file_survives_the_healing(root: Path) -> None:
    path = root / FOLDER / "libone.so"
    with open(path, "rb") as before:
        path.chmod(0o600)
        truncate(path)
        carried(root).find("libone.so")
        assert os.fstat(before.fileno()).st_ino != path.stat().st_ino


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_what_lay_where_others_could_write_is_not_kept(root: Path, mode: int) -> None:
    (root / FOLDER).chmod(mode)
    (root / FOLDER / "libstdc++.so.6").write_text("planted")
    assert carried(root).find("libone.so").read_bytes() == CONTENTS["libone.so"]
    assert not (root / FOLDER / "libstdc++.so.6").exists()
    assert (root / FOLDER).stat().st_mode & 0o777 == 0o700


def test_a_folder_of_ours_that_others_may_write_to_is_closed(root: Path) -> None:
    (root / "other").mkdir()
    root.chmod(0o777)
    (root / FOLDER / "libone.so").unlink()
    carried(root).find("libone.so")
    assert root.stat().st_mode & 0o777 == 0o700 and (root / "other").exists()


def link_elsewhere(root: Path, elsewhere: Path) -> None:
    root.symlink_to(elsewhere)


def put_a_file(root: Path, elsewhere: Path) -> None:
    root.write_text("")


def link_inside(root: Path, elsewhere: Path) -> None:
    root.mkdir()
    (root / FOLDER).symlink_to(elsewhere)


@pytest.mark.parametrize("obstacle", [link_elsewhere, put_a_file, link_inside])
def test_the_next_root_is_taken(tmp_path: Path, obstacle: Callable[[Path, Path], None]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    obstacle(tmp_path / "first", elsewhere)
    found = carried(tmp_path / "first", tmp_path / "second").find("libone.so")
    assert found == tmp_path / "second" / FOLDER / "libone.so"
    assert list(elsewhere.iterdir()) == []


def test_somebody_elses_folder_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        for path in (root, root / FOLDER):
            os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OSError, match="not ours"):
        carried(root).find("libone.so")


def test_a_mount_that_does_not_execute_is_not_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mounted:
        def __init__(self, path: Path) -> None:
            self.f_flag = os.ST_NOEXEC if path.is_relative_to(root) else 0

    monkeypatch.setattr(os, "statvfs", Mounted)
    assert carried(root, tmp_path / "second").find("libone.so").is_relative_to(tmp_path / "second")
    with pytest.raises(OSError, match="noexec"):
        carried(root).find("libone.so")


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError) as caught:
        carried(tmp_path / "first", tmp_path / "second").find("libone.so")
    text = str(caught.value)
    assert text.count("No space left on device") == 2 and "\n" not in text
    assert f"{tmp_path / 'first'}" in text and f"{tmp_path / 'second'}" in text
    assert [path.name for path in (tmp_path / "first" / FOLDER).iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "stream",
    [STREAM[:-200], STREAM[:60], b"", STREAM[:100] + b"x" + STREAM[101:]],
    ids=["end cut off", "only its head", "empty", "one byte changed"],
)
def test_a_damaged_executable_is_named(tmp_path: Path, stream: bytes) -> None:
    with pytest.raises(OSError, match="the executable is damaged"):
        carried(tmp_path / "root", stream=lambda: stream).find("libtwo.so")


@pytest.mark.parametrize("name", [".libone.so.4711", ".ggml.dll.4711", ".minijinja._lowlevel.pyd.4711", ".seal.4711"])
def test_what_an_interrupted_process_left_is_removed(root: Path, name: str) -> None:
    (root / FOLDER / name).write_bytes(b"half")
    (root / FOLDER / "libone.so").unlink()
    carried(root).find("libone.so")
    assert sorted(path.name for path in (root / FOLDER).iterdir()) == [".lock", *sorted(CONTENTS)]


def test_what_other_processes_take_away_meanwhile_is_no_obstacle(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal gets its name, and an old version is removed, right after it was seen."""
    seen = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: [*seen(path, pattern), path / pattern.replace("*", "gone")])
    monkeypatch.setattr(Path, "exists", lambda path: True)
    (root / FOLDER / "libone.so").unlink()
    assert carried(root).find("libone.so").read_bytes() == CONTENTS["libone.so"]


def test_where_nothing_can_be_locked_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert carried(tmp_path / "root").find("libone.so").exists()


@pytest.mark.parametrize(("mask", "writable"), [(0o022, False), (0, True)], ids=["posix", "windows"])
def test_windows_could_not_replace_what_nobody_may_write(
    mask: int, writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "_OTHERS_MAY_WRITE", mask)
    path = carried(tmp_path / "shimmy").find("libone.so")
    assert bool(path.stat().st_mode & 0o200) is writable


def test_old_versions_go_when_a_new_one_comes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    ages = {"native-old": 40, "native-recent": 10, "models": 400}
    for name, days in ages.items():
        (root / name).mkdir(parents=True)
        (root / name / "file").touch()
        then = time.time() - days * 86400
        os.utime(root / name, (then, then))
    root.chmod(0o700)
    carried(root).find("libone.so")
    assert {path.name for path in root.iterdir()} == {FOLDER, "native-recent", "models"}


def test_six_processes_at_once(tmp_path: Path) -> None:
    """Each waits for its turn to start on a line of its stdin; the contents travel as a file."""
    (tmp_path / "stream").write_bytes(STREAM)
    code = (
        "import sys; from pathlib import Path; from shimmy.worker.llama.payload import Payload\n"
        f"files = {FILES!r}\n"
        f"payload = Payload('abc', files, Path({str(tmp_path / 'stream')!r}).read_bytes,"
        f" lambda: [Path({str(tmp_path / 'root')!r})])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print([len(payload.find(name).read_bytes()) for name in files])\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=_CHECKOUT, **pipes) for _ in range(6)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    expected = f"{[len(content) for content in CONTENTS.values()]}\n"
    assert [process.communicate()[0] for process in processes] == [expected] * 6
    assert sorted(path.name for path in (tmp_path / "root" / FOLDER).iterdir()) == [".lock", *sorted(CONTENTS)]


_CHECKOUT = Path(__file__).parents[3]


def test_what_is_seldom_needed_waits_until_it_is(tmp_path: Path) -> None:
    def made(stream: Callable[[], bytes] = lambda: STREAM) -> Payload:
        return Payload("abc", FILES, stream, lambda: [tmp_path], seldom=["libtwo.so"])

    def unpacked() -> list[str]:
        return sorted(path.name for path in (tmp_path / FOLDER).glob("*.so"))

    # What is behind is not even looked at.
    made(lambda: STREAM[: len(STREAM) // 2]).find("libone.so")
    assert unpacked() == ["libone.so"]
    made(never).find("libone.so")
    made().find("libtwo.so")
    assert unpacked() == ["libone.so", "libtwo.so"]
    made(never).find("libtwo.so")
