"""A file that cannot be read while a drive does not answer: whatever is found elsewhere is listed meanwhile."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from shimmy.models import scan as scanning
from shimmy.models import watch as watching
from shimmy.models.catalog import Catalog
from shimmy.models.facts import Inspection, inspect
from shimmy.models.folders import Folder, Found, as_models
from shimmy.models.header_cache import HeaderCache
from shimmy.models.scan import is_written_now
from shimmy.models.watch import Watch
from tests.fakes.gguf_writer import model

LIMIT_SECONDS = 90.0
PATIENCE_SECONDS = 0.1


class Drive:
    """While `answers` is not set, whoever reads one of the files `held_up` waits. `asked` is what somebody wanted to
    read, and `read` what has been read."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.held_up: set[str] = set()
        self.asked: list[str] = []
        self.read: list[str] = []

    def wait_for(self, paths: Sequence[str]) -> None:
        self.asked += map(os.path.basename, paths)
        if not self.held_up.isdisjoint(map(os.path.basename, paths)):
            self.answers.wait()
        self.read += map(os.path.basename, paths)

    def inspect(self, paths: Sequence[str]) -> Inspection:
        self.wait_for(paths)
        return inspect(paths)

    def as_models(self, paths: Sequence[str]) -> list[Found]:
        self.wait_for(paths)
        return list(as_models(paths))

    def is_written_now(self, path: str) -> bool:
        self.wait_for([path])
        return is_written_now(path)


@pytest.fixture
def drive() -> Iterator[Drive]:
    made = Drive()
    yield made
    made.answers.set()
    for thread in threading.enumerate():
        if thread.name == "ask":
            thread.join(LIMIT_SECONDS)


@pytest.fixture
def mount(tmp_path: Path) -> Folder:
    (tmp_path / "mount").mkdir()
    return Folder("mount", str(tmp_path / "mount"))


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache" / "headers")


@pytest.fixture
def catalog(tmp_path: Path, mount: Folder, cache: str) -> Catalog:
    written(tmp_path / "folder" / "sound.gguf")
    return Catalog([mount, Folder("x", str(tmp_path / "folder"))], cache, patience_seconds=PATIENCE_SECONDS)


def written(path: Path) -> Path:
    model().write(path)
    os.utime(path, (1000, 1000))
    return path


def until(is_so: Callable[[], bool]) -> None:
    over = time.monotonic() + LIMIT_SECONDS
    while not is_so():
        assert time.monotonic() < over
        time.sleep(0.01)


def lists(catalog: Catalog, *ids: str) -> bool:
    """After a scan. On a slow machine a source that answers may do so after a while only."""
    catalog.refresh()
    return {each.id for each in catalog.models()} == set(ids)


def test_a_header_that_cannot_be_read_holds_up_its_own_source_only(
    mount: Folder, catalog: Catalog, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "inspect", drive.inspect)
    until(lambda: lists(catalog, "sound") and catalog.trouble_with(mount) is None)
    written(Path(mount.place, "m.gguf"))
    drive.held_up = {"m.gguf"}
    until(lambda: catalog.refresh() == [] and catalog.trouble_with(mount) == "does not answer")
    assert lists(catalog, "sound")
    drive.answers.set()
    until(lambda: lists(catalog, "sound", "m") and catalog.trouble_with(mount) is None)
    assert drive.read.count("m.gguf") == 1


def test_what_was_read_before_a_source_did_not_answer_is_not_read_again(
    mount: Folder, catalog: Catalog, cache: str, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "inspect", drive.inspect)
    # One header for a question.
    monkeypatch.setattr(scanning, "_READING_SHARE", 0.0)
    for name in ("a", "b", "c"):
        written(Path(mount.place, f"{name}.gguf"))
    drive.held_up = {"c.gguf"}
    until(lambda: lists(catalog, "sound") and {"a.gguf", "b.gguf"} <= set(drive.read))

    def cached() -> set[str]:
        return {os.path.basename(path) for sighting in HeaderCache(cache).read() for path in sighting.paths}

    until(lambda: catalog.refresh() == [] and {"a.gguf", "b.gguf"} <= cached())
    for _ in range(3):
        assert catalog.refresh() == [] and catalog.trouble_with(mount) == "does not answer"
    drive.answers.set()
    until(lambda: lists(catalog, "sound", "a", "b", "c"))
    assert [drive.read.count(f"{name}.gguf") for name in ("a", "b", "c")] == [1, 1, 1]


def test_what_was_kept_on_disk_is_not_read_again_when_a_source_does_not_answer_at_first(
    mount: Folder, catalog: Catalog, cache: str, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(Path(mount.place, "a.gguf"))
    until(lambda: lists(catalog, "sound", "a"))
    written(Path(mount.place, "b.gguf"))
    monkeypatch.setattr(scanning, "inspect", drive.inspect)
    drive.held_up = {"b.gguf"}
    restarted = Catalog(catalog.sources, cache, PATIENCE_SECONDS)
    until(lambda: lists(restarted, "sound") and "b.gguf" in drive.asked)
    drive.answers.set()
    until(lambda: lists(restarted, "sound", "a", "b"))
    assert drive.read == ["b.gguf"]


@pytest.mark.parametrize("question", ["inspect", "as_models"])
def test_a_look_at_a_file_gives_way_to_a_scan_when_there_is_no_answer(
    mount: Folder, catalog: Catalog, drive: Drive, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    until(lambda: lists(catalog, "sound"))
    monkeypatch.setattr(scanning, question, getattr(drive, question))
    path = written(Path(mount.place, "m.gguf"))
    drive.held_up = {"m.gguf"}
    assert catalog.look_again({str(path): mount}) is None
    assert {each.id for each in catalog.models()} == {"sound"}
    drive.answers.set()
    until(lambda: catalog.look_again({str(path): mount}) is not None)
    assert {each.id for each in catalog.models()} == {"sound", "m"}


@pytest.mark.parametrize(("module", "question"), [(scanning, "inspect"), (watching, "is_written_now")])
def test_the_watch_goes_on_while_a_file_holds_up_whoever_looks_at_it(
    tmp_path: Path,
    mount: Folder,
    catalog: Catalog,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    question: str,
) -> None:
    monkeypatch.setattr(watching, "_UNWATCHED_SECONDS", 0.2)
    monkeypatch.setattr(watching, "_RESCAN_SHARE", 1)
    until(lambda: lists(catalog, "sound"))
    monkeypatch.setattr(module, question, getattr(drive, question))
    drive.held_up = {"m.gguf"}
    watch = Watch(catalog)
    watch.start()
    try:
        written(Path(mount.place, "m.gguf"))
        written(tmp_path / "folder" / "first.gguf")
        until(lambda: {"sound", "first"} <= {each.id for each in catalog.models()})
        written(tmp_path / "folder" / "second.gguf")
        until(lambda: {"sound", "first", "second"} <= {each.id for each in catalog.models()})
        drive.answers.set()
        until(lambda: {"sound", "first", "second", "m"} == {each.id for each in catalog.models()})
    finally:
        drive.answers.set()
        watch.stop(LIMIT_SECONDS)


def test_whether_files_of_one_source_are_written_is_asked_by_one_thread(
    mount: Folder, catalog: Catalog, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {str(written(Path(mount.place, folder, "m.gguf"))) for folder in ("a", "b", "c")}
    monkeypatch.setattr(watching, "is_written_now", drive.is_written_now)
    drive.held_up = {"m.gguf"}
    watch = Watch(catalog)

    def knows_all_folders() -> bool:
        watch._watch_folders()
        return watch._is_complete

    try:
        until(knows_all_folders)
        before = set(threading.enumerate())
        watch._coming = paths
        assert watch._ready() == set()
        until(lambda: len(set(threading.enumerate()) - before) == 1 and drive.asked == ["m.gguf"])
    finally:
        watch._unwatch()
