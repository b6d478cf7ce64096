"""What headers said outlasts the program, and nothing that is in the cache's place does any harm."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.models import header_cache
from shimmy.models.catalog import Catalog
from shimmy.models.facts import Inspection, inspect
from shimmy.models.folders import Folder
from shimmy.models.header_cache import HeaderCache
from shimmy.models.listing import Sighting
from shimmy.models.scan import observe
from tests.fakes.forking import forking, kill
from tests.fakes.gguf_writer import model

ENTRY = (Sighting(("/m.gguf",), ((1, 2, 3, 4),), (5,)), Inspection("model", None, "broken"))


def entry(number: int) -> tuple[Sighting, Inspection]:
    return msgspec.structs.replace(ENTRY[0], paths=(f"/{number}.gguf",)), ENTRY[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shimmy" / "headers"


@pytest.fixture
def cache(path: Path) -> HeaderCache:
    return HeaderCache(str(path))


def old_model(path: Path, name: str = "tiny") -> Path:
    model(name).write(path)
    os.utime(path, (1000, 1000))
    return path


def test_what_is_kept_is_found_again(tmp_path: Path, cache: HeaderCache) -> None:
    paths = (str(old_model(tmp_path / "m.gguf")),)
    kept = [(observe(paths), inspect(paths)), ENTRY]
    cache.add(kept)
    assert cache.read() == dict(kept)


def test_only_this_user_can_read_it(path: Path, cache: HeaderCache) -> None:
    cache.add([ENTRY])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["headers"]


def test_no_header_is_read_twice(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_model(tmp_path / "models" / "m.gguf")

    def scanned() -> Catalog:
        made = Catalog([Folder("x", str(tmp_path / "models"))], str(path))
        made.refresh()
        return made

    def fail(paths: object) -> None:
        raise AssertionError(f"{paths} were read")

    first = scanned().models()
    monkeypatch.setattr("shimmy.models.scan.inspect", fail)
    assert scanned().models() == first and first[0].facts is not None


def touch(path: Path) -> None:
    path.touch()


def relink(path: Path) -> None:
    """The same in all but the time at which something was done to it."""
    status = path.stat()
    os.link(path, path.with_name("link"))
    # Within one tick of the file system's clock nothing would show.
    while path.stat().st_ctime_ns == status.st_ctime_ns:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rename(path: Path) -> None:
    path.rename(path.with_name("other.gguf"))


@pytest.mark.parametrize("change", [touch, relink, rename])
def test_a_file_that_was_touched_is_read_again(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    file = old_model(tmp_path / "models" / "m.gguf")
    folder = Folder("x", str(file.parent))
    Catalog([folder], str(path)).refresh()
    change(file)
    num_read = 0

    def counting(paths: tuple[str, ...]) -> Inspection:
        nonlocal num_read
        num_read += 1
        return inspect(paths)

    monkeypatch.setattr("shimmy.models.scan.inspect", counting)
    Catalog([folder], str(path)).refresh()
    assert num_read == 1


def test_a_file_written_just_now_is_not_kept(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next write may leave the same time behind."""
    # As long as it may take on a busy machine until it is looked at.
    monkeypatch.setattr("shimmy.models.scan.SETTLED_SECONDS", 1000.0)
    model().write(tmp_path / "models" / "m.gguf")
    Catalog([Folder("x", str(tmp_path / "models"))], str(path)).refresh()
    assert not path.exists()


def test_a_server_spends_little_time_on_keeping(
    tmp_path: Path, path: Path, cache: HeaderCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, num_kept = 1000.0, []
    add = HeaderCache.add

    def slow_add(self: HeaderCache, read: list[tuple[Sighting, Inspection]]) -> None:
        nonlocal now
        now += 0.5
        num_kept.append(len(read))
        add(self, read)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(HeaderCache, "add", slow_add)
    made = Catalog([Folder("x", str(tmp_path / "models"))], str(path))
    for name in ("one", "two", "three"):
        old_model(tmp_path / "models" / f"{name}.gguf")
        made.refresh()
    assert num_kept == [1] and len(cache.read()) == 1
    now += 49
    made.refresh()
    assert num_kept == [1]
    now += 2
    made.refresh()
    assert num_kept == [1, 2] and len(cache.read()) == 3


def test_others_entries_stay_and_the_oldest_go(cache: HeaderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_cache, "MAX_ENTRIES", 3)
    cache.add([entry(1), entry(2)])
    cache.add([entry(3), entry(1)])
    assert list(cache.read()) == [entry(each)[0] for each in (2, 3, 1)]
    cache.add([entry(4)])
    assert list(cache.read()) == [entry(each)[0] for each in (3, 1, 4)]


def test_of_one_file_only_what_it_is_now_is_kept(cache: HeaderCache) -> None:
    now = msgspec.structs.replace(ENTRY[0], changed_ns=(6,)), ENTRY[1]
    cache.add([ENTRY])
    cache.add([now])
    assert cache.read() == dict([now])


def test_its_size_is_bounded(path: Path, cache: HeaderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_cache, "MAX_BYTES", 2000)
    cache.add([entry(each) for each in range(200)])
    kept = list(cache.read())
    assert path.stat().st_size <= 2000
    assert kept and kept[-1] == entry(199)[0]


def test_another_version_begins_anew(cache: HeaderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.add([ENTRY])
    monkeypatch.setattr(header_cache, "__version__", "9.9.9")
    assert cache.read() == {}
    cache.add([entry(1)])
    assert list(cache.read()) == [entry(1)[0]]


@given(st.data())
def test_whatever_happens_to_a_byte_is_a_miss(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cache") / "headers"
    cache = HeaderCache(str(path))
    cache.add([ENTRY, entry(1)])
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert cache.read() == {}
    cache.add([ENTRY])
    assert cache.read() == dict([ENTRY])


@given(st.binary(max_size=200))
def test_any_content_with_a_true_checksum_is_a_miss(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    path = tmp_path_factory.mktemp("cache") / "headers"
    path.touch(0o600)
    path.write_bytes(header_cache._checksum(body) + body)
    assert HeaderCache(str(path)).read() == {}


def test_what_others_could_have_written_is_not_read(path: Path, cache: HeaderCache) -> None:
    for mode in (0o640, 0o620, 0o604, 0o602):
        cache.add([ENTRY])
        path.chmod(mode)
        assert cache.read() == {}


def test_what_is_no_file_is_not_opened(tmp_path: Path, path: Path, cache: HeaderCache) -> None:
    cache.add([ENTRY])
    path.rename(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    assert cache.read() == {}
    path.unlink()
    os.mkfifo(path, 0o600)
    assert cache.read() == {}
    path.unlink()
    path.mkdir()
    assert cache.read() == {}
    cache.add([ENTRY])


def test_without_a_place_for_it_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = HeaderCache(str(tmp_path / "file" / "headers"))
    cache.add([ENTRY])
    assert cache.read() == {}


def test_what_an_interrupted_write_left_is_no_obstacle(path: Path, cache: HeaderCache) -> None:
    path.parent.mkdir(parents=True)
    path.with_name("headers.new").write_bytes(b"half of i")
    cache.add([ENTRY])
    assert cache.read() == dict([ENTRY])
    assert [each.name for each in path.parent.iterdir()] == ["headers"]


# To keep what the header of one model after another says, without end. A file stays under its first name for a moment,
# so that many are killed at that point.
KEEPING = """
import glob, itertools, os, random, time
from shimmy.models.facts import inspect
from shimmy.models.header_cache import HeaderCache
from shimmy.models.scan import observe

replace = os.replace

def slowly(source, target):
    time.sleep(random.uniform(0, 0.005))
    replace(source, target)

def work():
    os.replace = slowly
    cache = HeaderCache(os.environ["HEADERS"])
    for path in itertools.cycle(glob.glob(os.environ["MODELS"] + "/*")):
        cache.add([(observe((path,)), inspect((path,)))])
"""
TIMES = 200
MOST_TIMES = 1000


@pytest.mark.slow
def test_two_who_write_it_are_killed_at_random_moments(tmp_path: Path, path: Path, cache: HeaderCache) -> None:
    files = [str(old_model(tmp_path / "models" / f"{number}.gguf", f"Model {number}")) for number in range(3)]
    truth: dict[tuple[str, ...], Inspection] = {(file,): inspect((file,)) for file in files}
    folder = Folder("x", str(tmp_path / "models"))
    moments, num_kept, num_unfinished = random.Random(7), 0, 0
    environ = {**os.environ, "HEADERS": str(path), "MODELS": folder.place}
    with open(tmp_path / "stderr.txt", "w") as stderr, forking(KEEPING, environ, stderr) as fork:
        running = [fork(), fork()]
        for number in range(MOST_TIMES):
            if number >= TIMES and num_kept and num_unfinished:
                break
            time.sleep(moments.uniform(0.0, 0.01))
            os.kill(running.pop(0), signal.SIGKILL)
            running.append(fork())
            num_unfinished += path.with_name("headers.new").exists()
            kept = cache.read()
            assert all(truth[sighting.paths] == inspection for sighting, inspection in kept.items())
            num_kept += bool(kept)
            another = Catalog([folder], str(path))
            another.refresh()
            assert {model.paths: model.facts for model in another.models()} == {
                paths: inspection.facts for paths, inspection in truth.items()
            }
        for pid in running:
            kill(pid)
    # Some were in the middle of it, and what others had written was there.
    assert num_kept and num_unfinished
    cache.add([ENTRY])
    assert ENTRY[0] in cache.read()
    assert [each.name for each in path.parent.iterdir()] == ["headers"]
    assert (tmp_path / "stderr.txt").read_text() == ""
