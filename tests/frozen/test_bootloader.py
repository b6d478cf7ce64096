"""The changed bootloader on a tiny program: it extracts once, trusts nothing, heals everything, and never gives up.

Where these tests run as root, the program runs as nobody, so that permissions mean something.
"""

import ast
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.frozen.bootloader_app import freeze

pytestmark = [
    pytest.mark.frozen,
    # The first of them compiles a bootloader and freezes a program.
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="other systems have PyInstaller's own bootloader"),
    pytest.mark.skipif(importlib.util.find_spec("PyInstaller") is None, reason="PyInstaller is not installed"),
]
ROOT = os.geteuid() == 0
NOBODY = 65534
USER: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ROOT else {}
LIBPYTHON = f"libpython3.{sys.version_info.minor}.so.1.0"
Report = dict[str, Any]


class Place:
    """A home and a folder for temporary files of the program's user, and the program in it."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.home, self.temporary = folder / "home", folder / "temporary"
        self.program = folder / "program"
        shutil.copy(program, self.program)
        for path in (folder, self.home, self.temporary):
            path.mkdir(exist_ok=True)
            self.give(path)
        self.environment = {"HOME": str(self.home), "TMPDIR": str(self.temporary)}
        self.starts = self.home / ".cache" / "shimmy" / "start"

    def give(self, path: Path) -> None:
        path.chmod(0o755)
        if ROOT:
            os.chown(path, NOBODY, NOBODY)

    def popen(self, *arguments: str, **settings: Any) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        everything = {**pipes, **USER, **settings}
        return subprocess.Popen([self.program, *arguments], env=self.environment, text=True, **everything)

    def run(self, *arguments: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        with self.popen(*arguments, **settings) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def report(self, *arguments: str, **settings: Any) -> Report:
        """What the program says of itself, after a start that was fine in every respect."""
        done = self.run(*arguments, **settings)
        assert (done.returncode, done.stderr) == (0, "")
        assert not any(self.temporary.iterdir())
        said: Report = ast.literal_eval(done.stdout)
        return said

    def cached(self, report: Report) -> bool:
        return Path(report["folder"]).parent == self.starts

    def entry(self) -> Path:
        """The extracted folder, after a start that made sure that it is there."""
        return Path(self.report()["folder"])


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return freeze(tmp_path_factory.mktemp("frozen"))


@pytest.fixture
def place(program: Path) -> Iterator[Place]:
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="bootloader-"))
    yield Place(folder, program)
    subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
    shutil.rmtree(folder)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


class TestGoodStart:
    def test_is_one_process(self, place: Place) -> None:
        for _ in range(2):
            with place.popen() as process:
                report = ast.literal_eval(process.communicate(timeout=60)[0])
            assert place.cached(report) and report["pid"] == process.pid and report["parent"] == os.getpid()

    def test_extracts_once(self, place: Place) -> None:
        entry = place.entry()
        before = (entry.stat().st_ino, {path: path.stat().st_mtime_ns for path in entry.rglob("*")})
        assert place.entry() == entry
        assert (entry.stat().st_ino, {path: path.stat().st_mtime_ns for path in entry.rglob("*")}) == before

    def test_leaves_the_environment_as_it_was(self, place: Place) -> None:
        report = place.report("respawn")
        assert report["environment"] == report["child"]["environment"]
        assert {name: report["environment"][name] for name in place.environment} == place.environment
        assert not {name for name in report["environment"] if name.startswith(("_PYI", "LD_"))}

    def test_keeps_the_library_path_of_the_user(self, place: Place) -> None:
        place.environment["LD_LIBRARY_PATH"] = "/some/where"
        assert place.report("respawn")["child"]["environment"]["LD_LIBRARY_PATH"] == "/some/where"

    def test_respawns_into_the_same_folder(self, place: Place) -> None:
        report = place.report("respawn")
        assert report["child"]["folder"] == report["folder"]
        assert report["child"]["parent"] == report["pid"]

    def test_honours_xdg_cache_home(self, place: Place) -> None:
        place.environment["XDG_CACHE_HOME"] = str(place.home / "elsewhere")
        assert Path(place.report()["folder"]).parents[2] == place.home / "elsewhere"

    def test_ignores_a_relative_xdg_cache_home(self, place: Place) -> None:
        place.environment["XDG_CACHE_HOME"] = "elsewhere"
        assert place.cached(place.report())

    def test_loads_bundled_libraries_only_when_needed(self, place: Place) -> None:
        with place.popen("wait") as process:
            assert process.stdout is not None
            place_of = ast.literal_eval(process.stdout.readline())["folder"]
            before = Path(f"/proc/{process.pid}/maps").read_text()
            assert process.communicate(timeout=60)[0] == "done\n"
        assert f"{place_of}/{LIBPYTHON}" in before and "liblzma" not in before


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def link_to_other(path: Path) -> None:
    path.unlink()
    path.symlink_to("/bin/sh")


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flip_middle(path: Path) -> None:
    flip(path, path.stat().st_size // 2)


def flip_and_hide(path: Path) -> None:
    """The modification time stays; the change time nobody can set."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    flip_middle(path)
    os.utime(path, ns=times)


DAMAGES = [flip_middle, truncate, Path.unlink, link_to_other, become_folder]
FILES = [LIBPYTHON, "libffi.so.*", "base_library.zip", "_ctypes*.so"]
CASES = [(name, damage) for name in FILES for damage in [flip_and_hide, *DAMAGES]]
# The seal's own times are not looked at; and an empty file has no byte to change or to lose.
CASES += [(".seal", damage) for damage in DAMAGES] + [("empty", damage) for damage in DAMAGES[2:]]


class TestHealing:
    @pytest.mark.parametrize(("name", "damage"), CASES)
    def test_a_damaged_file(self, place: Place, name: str, damage: Callable[[Path], None]) -> None:
        entry = place.entry()
        (victim,) = entry.rglob(name)
        good = victim.read_bytes()
        damage(victim)
        assert place.cached(place.report())
        assert not victim.is_symlink()
        assert name == ".seal" or victim.read_bytes() == good
        assert [path.name for path in sorted(place.starts.iterdir())] == [".lock", entry.name]

    def test_a_link_that_leads_elsewhere(self, place: Place) -> None:
        link = place.entry() / "link.zip"
        assert link.readlink() == Path("base_library.zip")
        link.unlink()
        link.symlink_to("base_library.ZIP")
        place.entry()
        assert link.readlink() == Path("base_library.zip")

    @pytest.mark.parametrize("mode", [0o000, 0o500, 0o777, 0o775])
    def test_a_folder_with_another_mode(self, place: Place, mode: int) -> None:
        place.entry().chmod(mode)
        assert place.cached(place.report())
        assert place.cached(place.report())

    def test_a_file_that_others_may_write(self, place: Place) -> None:
        (place.entry() / LIBPYTHON).chmod(0o666)
        assert (place.entry() / LIBPYTHON).stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("how", ["file", "empty folder", "link"])
    def test_something_else_in_its_place(self, place: Place, how: str) -> None:
        entry = place.entry()
        elsewhere = place.home / "elsewhere"
        entry.rename(elsewhere)
        if how == "file":
            entry.write_text("")
        elif how == "link":
            entry.symlink_to(elsewhere)
        else:
            entry.mkdir()
        assert place.entry() == entry and not entry.is_symlink()
        assert (elsewhere / LIBPYTHON).exists()

    def test_restored_from_a_backup(self, place: Place) -> None:
        """Other inodes and times, same contents: nothing is extracted again."""
        entry = place.entry()
        subprocess.run(["cp", "-rp", entry, entry.with_name("copy")], check=True)
        shutil.rmtree(entry)
        entry.with_name("copy").rename(entry)
        inode = entry.stat().st_ino
        assert place.entry().stat().st_ino == inode

    def test_while_it_is_in_use(self, place: Place) -> None:
        with place.popen("wait") as process:
            assert process.stdout is not None
            entry = Path(ast.literal_eval(process.stdout.readline())["folder"])
            truncate(entry / "base_library.zip")
            assert place.entry() == entry
            # Imports more, from what is there now.
            assert process.communicate(timeout=60)[0] == "done\n"


class TestDamagedExecutable:
    def refuses(self, place: Place) -> bool:
        done = place.run()
        lines = done.stderr.splitlines()
        return done.returncode == 255 and len(lines) == 1 and "is damaged or incomplete" in lines[0]

    @pytest.mark.parametrize("warm", [False, True])
    @pytest.mark.parametrize("per_mille", [60, 100, 300, 500, 700, 900, 990, 999, 1000])
    def test_a_changed_byte(self, place: Place, per_mille: int, warm: bool) -> None:
        if warm:
            place.entry()
        flip(place.program, (place.program.stat().st_size - 1) * per_mille // 1000)
        assert self.refuses(place)
        assert not any(place.temporary.iterdir())

    @pytest.mark.parametrize("fraction", [0.05, 0.5, 0.99])
    def test_a_short_file(self, place: Place, fraction: float) -> None:
        os.truncate(place.program, int(place.program.stat().st_size * fraction))
        assert self.refuses(place)

    @pytest.mark.parametrize("num_bytes", [1, 100, 4000, 100_000])
    def test_a_tail_of_noise(self, place: Place, num_bytes: int) -> None:
        for noise in (b"\0", b"\xff", b"\x01"):
            contents = place.program.read_bytes()
            place.program.write_bytes(contents[:-num_bytes] + noise * num_bytes)
            assert self.refuses(place)

    def test_a_table_of_contents_with_any_changed_byte(self, place: Place) -> None:
        """No crash, no endless loop."""
        contents = place.program.read_bytes()
        cookie = contents.rindex(b"MEI\014\013\012\013\016")
        for offset in range(cookie - 600, len(contents), 7):
            place.program.write_bytes(contents[:offset] + bytes([contents[offset] ^ 0x80]) + contents[offset + 1 :])
            assert self.refuses(place), offset


class TestNowhereToCache:
    """Then the ordinary way: works, two processes, and nothing stays behind."""

    def is_ordinary(self, place: Place, **settings: Any) -> bool:
        report = place.report(**settings)
        return Path(report["folder"]).parent == place.temporary and not Path(report["folder"]).exists()

    def test_without_a_home(self, place: Place) -> None:
        del place.environment["HOME"]
        assert self.is_ordinary(place)

    def test_a_home_that_does_not_exist(self, place: Place) -> None:
        place.environment["HOME"] = "/nonexistent"
        assert self.is_ordinary(place)

    def test_a_home_that_cannot_be_written(self, place: Place) -> None:
        place.home.chmod(0o555)
        assert self.is_ordinary(place)

    def test_respawns_into_the_temporary_folder(self, place: Place) -> None:
        del place.environment["HOME"]
        report = place.report("respawn")
        assert report["child"]["folder"] == report["folder"]

    @pytest.mark.parametrize("part", ["", ".cache", ".cache/shimmy", ".cache/shimmy/start"])
    def test_a_path_that_others_may_change(self, place: Place, part: str) -> None:
        entry = place.entry()
        (place.home / part).chmod(0o777)
        assert self.is_ordinary(place)
        (place.home / part).chmod(0o755)
        assert place.entry() == entry

    @pytest.mark.parametrize("part", ["shimmy", "shimmy/start"])
    def test_a_link_on_the_way(self, place: Place, part: str) -> None:
        path = place.home / ".cache" / part
        path.parent.mkdir(parents=True)
        for made in (place.home / ".cache", path.parent):
            place.give(made)
        path.symlink_to(place.temporary)
        assert self.is_ordinary(place)

    @pytest.mark.skipif(not ROOT, reason="only root can make what belongs to somebody else")
    def test_a_folder_of_somebody_else(self, place: Place) -> None:
        (place.home / ".cache").mkdir()
        place.give(place.home / ".cache")
        (place.home / ".cache" / "shimmy").mkdir()
        assert self.is_ordinary(place)

    @pytest.mark.skipif(not ROOT, reason="only root can make what belongs to somebody else")
    def test_the_files_of_somebody_else(self, place: Place) -> None:
        """As a thief of the name would leave them; our folder is replaced, whatever is in it."""
        entry = place.entry()
        os.chown(entry / LIBPYTHON, 0, 0)
        assert (place.entry() / LIBPYTHON).stat().st_uid == NOBODY
        assert place.entry() == entry

    @pytest.mark.skipif(not ROOT, reason="only root can use the home of another user")
    def test_root_in_the_home_of_another_user(self, place: Place) -> None:
        """As with sudo -E: that user could exchange what root executes."""
        assert self.is_ordinary(place, user=0, group=0)
        assert not place.starts.exists()

    def test_a_cache_that_cannot_be_written_is_used(self, place: Place) -> None:
        entry = place.entry()
        subprocess.run(["chmod", "-R", "a-w", place.home], check=True)
        assert place.entry() == entry

    def test_a_lock_that_is_never_released(self, place: Place) -> None:
        shutil.rmtree(place.entry())
        with (place.starts / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert self.is_ordinary(place)
        assert place.cached(place.report())


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory at `folder`."""
    command = ["mount", "-t", "tmpfs", "-o", f"{options},uid={NOBODY},gid={NOBODY},mode=755", "tmpfs", str(folder)]
    if not ROOT or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class TestFileSystems:
    def test_a_disk_that_becomes_full(self, place: Place) -> None:
        with mounted(place.home, "size=3m"):
            assert Path(place.report()["folder"]).parent == place.temporary
            assert [path.name for path in place.starts.iterdir()] == [".lock"]
            subprocess.run(["mount", "-o", "remount,size=100m", place.home], check=True)
            assert place.cached(place.report())

    def test_every_disk_full(self, place: Place) -> None:
        with mounted(place.home, "size=3m"), mounted(place.temporary, "size=5m"):
            done = place.run()
            assert done.returncode == 255 and not done.stdout
            assert len(done.stderr.splitlines()) == 1 and "No space left on device" in done.stderr
            assert not any(place.temporary.iterdir())

    def test_a_disk_that_forbids_execution(self, place: Place) -> None:
        with mounted(place.home, "noexec"):
            assert Path(place.report()["folder"]).parent == place.temporary
            assert not any(place.starts.rglob("*.so"))

    def test_a_cache_on_a_read_only_disk(self, place: Place) -> None:
        with mounted(place.home, "size=100m"):
            entry = place.entry()
            # So that the seal is no longer right, and cannot be put right.
            os.utime(entry / LIBPYTHON)
            subprocess.run(["mount", "-o", "remount,ro", place.home], check=True)
            assert place.entry() == entry

    def test_corruption_on_a_read_only_disk(self, place: Place) -> None:
        with mounted(place.home, "size=100m"):
            flip_middle(place.entry() / LIBPYTHON)
            subprocess.run(["mount", "-o", "remount,ro", place.home], check=True)
            assert Path(place.report()["folder"]).parent == place.temporary


class TestManyAtOnce:
    def test_first_starts(self, place: Place) -> None:
        for _ in range(5):
            shutil.rmtree(place.home / ".cache", ignore_errors=True)
            self.all_work(place)

    def test_starts_that_heal(self, place: Place) -> None:
        for _ in range(5):
            flip_middle(place.entry() / LIBPYTHON)
            self.all_work(place)

    def all_work(self, place: Place) -> None:
        processes = [place.popen() for _ in range(6)]
        outcomes = [(*process.communicate(timeout=60), process.returncode) for process in processes]
        assert [(err, code) for _, err, code in outcomes] == [("", 0)] * 6
        reports = [ast.literal_eval(out) for out, _, _ in outcomes]
        assert all(place.cached(report) for report in reports)
        entries = sorted(path.name for path in place.starts.iterdir())
        assert entries == [".lock", Path(reports[0]["folder"]).name]


class TestEndedEarly:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_at_any_moment_of_the_first_start(self, place: Place, number: signal.Signals) -> None:
        began = time.monotonic()
        place.entry()
        whole_seconds = time.monotonic() - began
        for step in range(20):
            shutil.rmtree(place.home / ".cache")
            with place.popen() as process:
                # Not waiting for anything: this is the moment.
                time.sleep(whole_seconds * step / 20)
                process.send_signal(number)
            assert place.cached(place.report())
            names = sorted(path.name for path in place.starts.iterdir())
            assert len(names) == 2 and names[0] == ".lock"


class TestOldVersions:
    """Removed by whoever extracts a new one."""

    OLD = "0123456789abcdef" * 2

    @pytest.fixture
    def old(self, place: Place) -> Path:
        """A version that was last used two days ago."""
        old = place.entry().rename(place.starts / self.OLD)
        two_days_ago = time.time() - 2 * 86400
        os.utime(old / ".seal", (two_days_ago, two_days_ago))
        return old

    def test_unused(self, place: Place, old: Path) -> None:
        place.entry()
        assert not old.exists()

    def test_used_lately(self, place: Place, old: Path) -> None:
        os.utime(old / ".seal")
        place.entry()
        assert (old / LIBPYTHON).exists()

    def test_in_use(self, place: Place, old: Path) -> None:
        with (old / ".seal").open() as seal:
            fcntl.flock(seal, fcntl.LOCK_SH)
            place.entry()
            assert (old / LIBPYTHON).exists()

    def test_a_process_says_that_it_uses_its_own(self, place: Place) -> None:
        with place.popen("wait") as process:
            assert process.stdout is not None
            entry = Path(ast.literal_eval(process.stdout.readline())["folder"])
            with (entry / ".seal").open() as seal:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(seal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process.communicate(timeout=60)
                fcntl.flock(seal, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_a_start_tells_that_it_was_used(self, place: Place) -> None:
        seal = place.entry() / ".seal"
        os.utime(seal, (0, time.time() - 7200))
        place.entry()
        assert time.time() - seal.stat().st_mtime < 3600

    def test_what_was_never_complete(self, place: Place) -> None:
        place.entry().rename(place.starts / ".new-1")
        (place.starts / self.OLD).mkdir()
        place.entry()
        assert len(list(place.starts.iterdir())) == 2

    def test_what_is_not_ours(self, place: Place, old: Path) -> None:
        (place.starts / "notes").mkdir()
        (place.starts / "0123").write_text("")
        place.entry()
        assert (place.starts / "notes").exists() and (place.starts / "0123").exists()
