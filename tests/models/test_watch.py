"""Files come and go while the watch is on: with what the system tells here, and with what a test tells."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from shimmy.models import watch as watching
from shimmy.models.catalog import Catalog
from shimmy.models.discovery import Source
from shimmy.models.folders import DataFolder, File, Folder, HuggingFaceCache
from shimmy.models.listing import Change
from shimmy.models.notifications import GONE, MODIFIED, NEW, Changes
from shimmy.models.ollama import OllamaStore
from shimmy.models.watch import Told, Watch, folders_of
from tests.fakes.gguf_writer import model

LIMIT_SECONDS = 90


def until(is_so: Callable[[], bool]) -> None:
    over = time.monotonic() + LIMIT_SECONDS
    while not is_so():
        assert time.monotonic() < over
        time.sleep(0.01)


class Counting(Catalog):
    """Counts scans and looks at files, each of which takes `seconds`, and notes when they began and ended."""

    seconds = 0.0
    num_scans = 0
    num_looks = 0

    def __init__(self, sources: Sequence[Source], patience_seconds: float | None = None) -> None:
        super().__init__(sources, patience_seconds=patience_seconds)
        self.times: dict[str, list[tuple[float, float]]] = {"num_scans": [], "num_looks": []}

    def refresh(self) -> list[Change]:
        began = self._begun()
        self.num_scans += 1
        changes = super().refresh()
        self.times["num_scans"].append((began, time.monotonic()))
        return changes

    def look_again(self, files: Mapping[str, Source]) -> list[Change] | None:
        began = self._begun()
        self.num_looks += 1
        changes = super().look_again(files)
        self.times["num_looks"].append((began, time.monotonic()))
        return changes

    def _begun(self) -> float:
        began = time.monotonic()
        time.sleep(self.seconds)
        return began


@contextmanager
def watched(catalog: Catalog, notify: Callable[[Sequence[str]], Told] | None = None) -> Iterator[list[Change]]:
    """The changes that are told meanwhile."""
    told: list[Change] = []
    catalog.refresh()
    catalog.on_change = told.append
    watch = Watch(catalog, notify) if notify else Watch(catalog)
    watch.start()
    try:
        yield told
    finally:
        watch.stop(LIMIT_SECONDS)
    assert not [thread for thread in threading.enumerate() if thread.name == "watch"]


@pytest.fixture
def catalog(tmp_path: Path) -> Counting:
    return Counting([Folder("x", str(tmp_path))])


@pytest.fixture
def told(catalog: Counting) -> Iterator[list[Change]]:
    """Watching has begun."""
    with watched(catalog) as changes:
        until(lambda: catalog.num_scans > 1)
        yield changes


def seen(told: list[Change]) -> list[tuple[str, str]]:
    return [(change.kind, change.id) for change in told]


def test_what_comes_and_goes(tmp_path: Path, catalog: Counting, told: list[Change]) -> None:
    path = model("Old").write(tmp_path / "m.gguf")
    until(lambda: seen(told) == [("added", "m")])
    model("New").write(tmp_path / "next").replace(path)
    until(lambda: seen(told)[1:] == [("changed", "m")])
    facts = catalog.find("m").facts
    assert facts and facts.name == "New"
    path.rename(tmp_path / "other.gguf")
    until(lambda: seen(told)[2:] == [("removed", "m"), ("added", "other")])
    (tmp_path / "other.gguf").unlink()
    until(lambda: seen(told)[4:] == [("removed", "other")])
    assert catalog.models() == []


def test_folders_that_appear_are_watched_too(tmp_path: Path, told: list[Change]) -> None:
    model().write(tmp_path / "a" / "b" / "first.gguf")
    until(lambda: seen(told) == [("added", "first")])
    model().write(tmp_path / "a" / "b" / "second.gguf")
    until(lambda: seen(told)[1:] == [("added", "second")])
    shutil.rmtree(tmp_path / "a")
    until(lambda: len(told) == 4)
    assert sorted(seen(told)[2:]) == [("removed", "first"), ("removed", "second")]


def test_a_slow_copy_is_one_change_when_it_is_whole(
    tmp_path: Path, told: list[Change], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the machine may pause between two writes.
    monkeypatch.setattr("shimmy.models.scan.SETTLED_SECONDS", 1000.0)
    content = model().encode()
    with open(tmp_path / "m.gguf", "wb", buffering=0) as file:
        # A size from the start, as some downloads have it.
        file.truncate(len(content))
        for start in range(0, len(content), len(content) // 6):
            file.write(content[start : start + len(content) // 6])
            time.sleep(0.2)
    assert not told
    monkeypatch.undo()
    until(lambda: bool(told))
    assert [(change.kind, change.after and change.after.invalid) for change in told] == [("added", None)]


def test_what_is_no_file_and_links_in_circles_are_no_obstacle(tmp_path: Path, told: list[Change]) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.gguf").symlink_to(tmp_path / "itself.gguf")
    (tmp_path / "device.gguf").symlink_to("/dev/zero")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "one").symlink_to(tmp_path / "two")
    os.mkdir(os.fsencode(tmp_path) + b"/not \xff text")
    model().write(tmp_path / "m.gguf")
    until(lambda: bool(told))
    assert seen(told) == [("added", "m")]


class Scripted:
    """Tells what a test puts into `changes`, again and again; an error is raised once."""

    def __init__(self) -> None:
        self.folders: list[Sequence[str]] = []
        self.changes: Changes = set()
        self.error: OSError | None = None
        self.num_open = 0

    def __call__(self, folders: Sequence[str]) -> Told:
        self.folders.append(folders)
        self.num_open += 1
        return self

    def wait(self, seconds: float, stopped: threading.Event) -> Changes:
        stopped.wait(0.01)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.changes

    def close(self) -> None:
        self.num_open -= 1


@pytest.mark.parametrize("ending", [".gguf", ".safetensors"])
def test_a_storm_of_renames_gets_few_scans_and_looks(tmp_path: Path, catalog: Counting, ending: str) -> None:
    script = Scripted()
    script.changes = {(kind, str(tmp_path / f"{number}{ending}")) for kind in (NEW, GONE) for number in range(100)}
    began = time.monotonic()
    with watched(catalog, script):
        until(lambda: catalog.num_scans > 1)
        time.sleep(1)
        num_both = catalog.num_scans + catalog.num_looks
        assert num_both <= 3 + (time.monotonic() - began) / 0.2


@pytest.mark.parametrize(("name", "count"), [("config.json", "num_scans"), ("new.gguf", "num_looks")])
def test_scans_and_looks_take_no_more_than_a_quarter_of_the_time(
    tmp_path: Path, catalog: Counting, name: str, count: str
) -> None:
    script = Scripted()
    script.changes = {(NEW, str(tmp_path / name))}
    catalog.seconds = 0.1
    with watched(catalog, script):
        until(lambda: len(catalog.times[count]) > 3)
    # The first scan of all is not the watch's.
    times = catalog.times[count][1:]
    for (began, ended), (next_began, _) in zip(times, times[1:], strict=False):
        assert next_began - ended >= 3 * (ended - began)


@pytest.fixture
def no_slow_rescan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_WATCHED_SECONDS", 1000.0)


@pytest.mark.usefixtures("no_slow_rescan")
def test_only_the_files_that_changed_are_looked_at(tmp_path: Path, catalog: Counting, told: list[Change]) -> None:
    path = model("Old").write(tmp_path / "m.gguf")
    until(lambda: seen(told) == [("added", "m")])
    model("New").write(tmp_path / "part").replace(path)
    until(lambda: seen(told)[1:] == [("changed", "m")])
    path.rename(tmp_path / "other.gguf")
    until(lambda: sorted(seen(told)[2:]) == [("added", "other"), ("removed", "m")])
    (tmp_path / "other.gguf").unlink()
    until(lambda: seen(told)[4:] == [("removed", "other")])
    assert catalog.num_scans == 2


@pytest.mark.usefixtures("no_slow_rescan")
def test_files_of_which_one_has_the_name_of_the_other_get_a_scan(
    tmp_path: Path, catalog: Counting, told: list[Change]
) -> None:
    model().write(tmp_path / "m b.gguf")
    until(lambda: seen(told) == [("added", "m-b")])
    assert catalog.num_scans == 2
    model().write(tmp_path / "M_B.gguf")
    until(lambda: len(told) > 1)
    assert catalog.num_scans > 2
    assert catalog.find("m-b").paths == (str(tmp_path / "M_B.gguf"),)


@pytest.mark.usefixtures("no_slow_rescan")
def test_what_belongs_to_no_model_gets_no_scan(tmp_path: Path, catalog: Counting) -> None:
    script = Scripted()
    with watched(catalog, script):
        until(lambda: catalog.num_scans == 2)
        (tmp_path / "m.part").touch()
        script.changes = {(kind, str(tmp_path / name)) for kind in (NEW, GONE) for name in ("m.part", "README")}
        time.sleep(0.5)
        assert catalog.num_scans == 2
        script.changes = {(NEW, str(tmp_path / "tokenizer.json"))}
        until(lambda: catalog.num_scans > 2)


def test_a_file_that_is_being_written_is_not_looked_at_before_it_is_whole(
    tmp_path: Path, catalog: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted()
    is_written = threading.Event()
    is_written.set()
    monkeypatch.setattr(watching, "is_written_now", lambda path: is_written.is_set())
    with watched(catalog, script) as told:
        until(lambda: catalog.num_scans == 2)
        path = model().write(tmp_path / "m.gguf")
        script.changes = {(NEW, str(path)), (MODIFIED, str(path))}
        time.sleep(0.5)
        assert (catalog.num_scans, catalog.num_looks) == (2, 0)
        is_written.clear()
        until(lambda: bool(told))


def test_very_many_files_that_come_are_not_waited_for_one_by_one(
    tmp_path: Path, catalog: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "is_written_now", lambda path: True)
    monkeypatch.setattr(watching, "_MANY", 3)
    script = Scripted()
    with watched(catalog, script):
        until(lambda: catalog.num_scans == 2)
        script.changes = {(NEW, f"{tmp_path}/{number}.gguf") for number in range(4)}
        until(lambda: catalog.num_scans > 2)


def test_hidden_files_are_not_looked_for(tmp_path: Path, catalog: Counting) -> None:
    script = Scripted()
    with watched(catalog, script):
        until(lambda: catalog.num_scans == 2)
        script.changes = {(NEW, str(tmp_path / ".m.gguf.part"))}
        time.sleep(0.5)
        assert catalog.num_scans == 2


def test_after_an_error_it_scans_and_watches_anew(
    tmp_path: Path, catalog: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_UNWATCHED_SECONDS", 0.3)
    script = Scripted()
    with watched(catalog, script):
        until(lambda: catalog.num_scans == 2)
        script.error = OSError("a name that is not text")
        # The scan comes with the new watch or before it.
        until(lambda: catalog.num_scans > 2 and len(script.folders) > 1 and script.num_open == 1)
    assert script.num_open == 0


def test_where_nothing_can_be_watched_it_scans_now_and_then(
    tmp_path: Path, catalog: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folders: Sequence[str]) -> Told:
        raise OSError("no more watches")

    monkeypatch.setattr(watching, "_UNWATCHED_SECONDS", 0.3)
    with watched(catalog, refuse) as told:
        model().write(tmp_path / "m.gguf")
        until(lambda: bool(told))
        until(lambda: catalog.num_scans > 5)
    assert caplog.text.count("since they cannot be watched: no more watches") == 1


def test_it_goes_on_while_nobody_says_whether_something_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mount", "folder"):
        (tmp_path / name).mkdir()
    sources = [Folder(name, str(tmp_path / name)) for name in ("mount", "folder")]
    catalog = Counting(sources, patience_seconds=0.1)
    asked, answers = threading.Event(), threading.Event()
    is_folder = os.path.isdir

    def isdir(path: str) -> bool:
        if str(path).endswith("notes"):
            asked.set()
            answers.wait()
        return is_folder(path)

    monkeypatch.setattr(os.path, "isdir", isdir)
    script = Scripted()
    with watched(catalog, script):
        script.changes = {(NEW, str(tmp_path / "mount" / "notes"))}
        try:
            until(asked.is_set)
            script.changes = {(NEW, str(tmp_path / "folder" / "tokenizer.json"))}
            num_scans = catalog.num_scans
            until(lambda: catalog.num_scans > num_scans + 1)
        finally:
            answers.set()


class HeldUp(Folder):
    """While `answers` is not set, whoever looks into it waits, as in a network mount whose server has gone."""

    def __init__(self, path: Path) -> None:
        self.answers = threading.Event()
        super().__init__("mount", str(path))

    @property
    def depth(self) -> int:
        self.answers.wait()
        return 8

    @depth.setter
    def depth(self, depth: int) -> None:
        pass


def test_a_place_that_does_not_answer_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("mount", "folder"):
        aged = model().write(tmp_path / name / f"{name}.gguf")
        os.utime(aged, (1000, 1000))
    mount = HeldUp(tmp_path / "mount")
    mount.answers.set()
    catalog = Catalog([mount, Folder("x", str(tmp_path / "folder"))], patience_seconds=0.2)

    def listed() -> set[str]:
        return {each.id for each in catalog.models()}

    def is_listed(*ids: str) -> bool:
        catalog.refresh()
        return listed() == set(ids)

    try:
        until(lambda: is_listed("mount", "folder") and catalog.trouble_with(mount) is None)
        caplog.clear()
        mount.answers.clear()
        with watched(catalog):
            model().write(tmp_path / "folder" / "new.gguf")
            until(lambda: listed() == {"mount", "folder", "new"})
            until(lambda: catalog.trouble_with(mount) == "does not answer")
            catalog.refresh()
            assert caplog.text.count(f"{mount.place} does not answer") == 1
            # The watch ends meanwhile.
        model().write(tmp_path / "mount" / "later.gguf")
        assert is_listed("mount", "folder", "new")
        mount.answers.set()
        until(lambda: is_listed("mount", "folder", "new", "later"))
        assert catalog.trouble_with(mount) is None
    finally:
        mount.answers.set()


def test_a_place_that_appears_is_found_by_the_slow_rescan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_WATCHED_SECONDS", 0.5)
    with watched(Catalog([Folder("x", str(tmp_path / "later"))])) as told:
        model().write(tmp_path / "later" / "m.gguf")
        until(lambda: bool(told))


def test_a_fault_ends_the_watch_and_is_logged(catalog: Counting, caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Scripted):
        def wait(self, seconds: float, stopped: threading.Event) -> Changes:
            raise RuntimeError("a bug")

    script = Faulty()
    with watched(catalog, script):
        until(lambda: "the model folders are no longer watched" in caplog.text)
        until(lambda: script.num_open == 0)


def test_which_folders_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in (
        *("models/a/b", "models/.git/objects", "one/below", "hub/models--org--name/snapshots/123"),
        *("hub/models--org--name/blobs", "ollama/blobs", "ollama/manifests/host/library/name", "file"),
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models")
    os.mkdir(os.fsencode(tmp_path) + b"/models/not \xff text")
    (tmp_path / "file" / "m.gguf").touch()
    sources: list[Source] = [
        File("x", str(tmp_path / "file" / "m.gguf")),
        File("x", str(tmp_path / "absent.gguf")),
        Folder("x", str(tmp_path / "models")),
        Folder("x", str(tmp_path / "one"), depth=1),
        DataFolder(),
        HuggingFaceCache(str(tmp_path / "hub")),
        OllamaStore(str(tmp_path / "ollama")),
    ]
    folders, is_all = folders_of(sources)
    assert {os.path.relpath(folder, tmp_path): source for folder, source in folders.items() if source} == {
        **dict.fromkeys(("models", "models/a", "models/a/b"), sources[2]),
        "one": sources[3],
    }
    assert is_all and [os.path.relpath(folder, tmp_path) for folder in folders] == [
        *("file", "models", "models/a", "models/a/b", "one", "hub", "hub/models--org--name"),
        *("hub/models--org--name/snapshots", "hub/models--org--name/snapshots/123"),
        *("ollama", "ollama/manifests", "ollama/manifests/host", "ollama/manifests/host/library"),
        "ollama/manifests/host/library/name",
    ]


def test_in_a_folder_that_two_sources_search_no_file_is_looked_at_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "models" / "sub")
    model().write(tmp_path / "models" / "m.gguf")
    sources: list[Source] = [
        File("x", str(tmp_path / "models" / "m.gguf")),
        Folder("x", str(tmp_path / "models")),
        Folder("x", str(tmp_path / "link")),
    ]
    folders, _ = folders_of(sources)
    assert {os.path.relpath(folder, tmp_path): source for folder, source in folders.items()} == {
        "models": sources[1],
        "models/sub": None,
        "link": None,
    }


def test_so_many_folders_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_FOLDERS", 3)
    for number in range(5):
        (tmp_path / str(number)).mkdir()
    folders, is_all = folders_of([Folder("x", str(tmp_path))])
    assert (len(folders), is_all) == (3, False)


def test_a_real_storm_of_renames_ends_in_the_truth(tmp_path: Path, catalog: Counting) -> None:
    for number in range(20):
        path = model().write(tmp_path / f"{number}.gguf")
        os.utime(path, (1000, 1000))
    with watched(catalog) as told:
        until(lambda: catalog.num_scans > 1)
        for turn in range(2000):
            (tmp_path / f"{turn % 20}.gguf").rename(tmp_path / "moved")
            (tmp_path / "moved").rename(tmp_path / f"{turn % 20}.gguf")
        (tmp_path / "0.gguf").rename(tmp_path / "last.gguf")
        until(lambda: "last" in [each.id for each in catalog.models()])
        until(lambda: not catalog.unsettled())
        listed = {f"{number}" for number in range(1, 20)} | {"last"}
        until(lambda: {each.id for each in catalog.models()} == listed)
    present = {str(number) for number in range(20)}
    for change in told:
        (present.discard if change.kind == "removed" else present.add)(change.id)
    assert present == listed
