"""When a file counts: not while it may still be written. And what a scan skips, with the reason."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from shimmy.models.catalog import Catalog
from shimmy.models.discovery import Source
from shimmy.models.folders import File, Folder, Found
from shimmy.models.listing import Change, Listing, Model
from shimmy.models.scan import SETTLED_SECONDS, scan
from tests.fakes.gguf_writer import GGUF, TensorSpec, model


class Clock:
    """Of this machine (monotonic and wall time), which stands still unless a test lets it go on; files have that of the
    system, and so are a little newer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        began_ns = time.time_ns()
        monkeypatch.setattr(time, "monotonic", lambda: 1000 + self.passed)
        monkeypatch.setattr(time, "time_ns", lambda: began_ns + int(self.passed * 1e9))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def catalog(tmp_path: Path, clock: Clock) -> Catalog:
    made = Catalog([Folder("x", str(tmp_path))])
    made.refresh()
    return made


def ids(catalog: Catalog) -> list[str]:
    return [each.id for each in catalog.models()]


def kinds(catalog: Catalog) -> list[str]:
    return [change.kind for change in catalog.refresh()]


def test_a_new_file_counts_when_it_has_been_the_same_for_a_while(
    tmp_path: Path, clock: Clock, catalog: Catalog
) -> None:
    path = model().write(tmp_path / "m.gguf")
    set_now(path, clock)
    assert kinds(catalog) == [] and ids(catalog) == []
    assert catalog.unsettled() == {str(path)} and not catalog.settled()
    clock.passed += SETTLED_SECONDS
    assert catalog.settled()
    assert kinds(catalog) == ["added"] and ids(catalog) == ["m"]
    assert catalog.unsettled() == set() and not catalog.settled()


def test_a_file_moved_into_the_folder_counts_at_once(tmp_path: Path, catalog: Catalog) -> None:
    path = model().write(tmp_path / "download.part")
    os.utime(path, (1000, 1000))
    path.rename(tmp_path / "m.gguf")
    assert kinds(catalog) == ["added"]


def test_a_file_that_grows_is_not_listed(tmp_path: Path, clock: Clock, catalog: Catalog) -> None:
    """Not as a broken one either."""
    content = model().encode()
    for size in range(0, len(content), len(content) // 5):
        (tmp_path / "m.gguf").write_bytes(content[:size])
        set_now(tmp_path / "m.gguf", clock)
        assert kinds(catalog) == [] and ids(catalog) == []
        clock.passed += 0.5
    (tmp_path / "m.gguf").write_bytes(content)
    clock.passed += 100
    assert kinds(catalog) == ["added"]
    assert catalog.find("m").invalid is None


def set_now(path: Path, clock: Clock) -> None:
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def test_a_file_whose_time_is_in_the_future_counts_by_our_time(tmp_path: Path, clock: Clock, catalog: Catalog) -> None:
    """As on a network mount, whose clock is another machine's."""
    path = model().write(tmp_path / "m.gguf")
    os.utime(path, (4e9, 4e9))
    assert kinds(catalog) == []
    clock.passed += SETTLED_SECONDS / 2
    assert kinds(catalog) == [] and not catalog.settled()
    clock.passed += SETTLED_SECONDS
    assert catalog.settled()
    assert kinds(catalog) == ["added"]
    assert kinds(catalog) == []


def test_a_half_copied_file_of_which_no_more_comes_is_listed_with_what_is_wrong(
    tmp_path: Path, clock: Clock, catalog: Catalog
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model().encode()[:-40])
    clock.passed += 10
    assert kinds(catalog) == ["added"]
    assert "truncated" in str(catalog.models()[0].invalid)
    path.write_bytes(model().encode())
    set_now(path, clock)
    assert kinds(catalog) == []
    clock.passed += 10
    assert kinds(catalog) == ["changed"]
    assert catalog.models()[0].invalid is None


def test_while_a_file_is_replaced_the_listing_has_the_old_one(tmp_path: Path, clock: Clock, catalog: Catalog) -> None:
    path = model("Old").write(tmp_path / "m.gguf")
    clock.passed += 10
    catalog.refresh()
    before = catalog.find("m")
    path.write_bytes(model("New").encode()[:100])
    set_now(path, clock)
    assert kinds(catalog) == [] and catalog.find("m") == before
    path.write_bytes(model("New").encode())
    set_now(path, clock)
    assert kinds(catalog) == [] and catalog.find("m") == before
    clock.passed += 10
    [change] = catalog.refresh()
    assert change.before == before and change.after and change.after.facts and change.after.facts.name == "New"


def test_a_model_that_gets_another_file_stays_meanwhile(tmp_path: Path, clock: Clock) -> None:
    class Growing(Folder):
        def find(self) -> Iterator[Found]:
            yield Found("m", tuple(sorted(map(str, tmp_path.iterdir()))))

    model(split__count=2, split__no=0).write(tmp_path / "b.gguf")
    catalog = Catalog([Growing("x", str(tmp_path))])
    catalog.refresh()
    clock.passed += 10
    catalog.refresh()
    [before] = catalog.models()
    GGUF({"split.count": 2, "split.no": 1}, [TensorSpec("blk.0.weight", (16,))]).write(tmp_path / "c.gguf")
    set_now(tmp_path / "c.gguf", clock)
    assert kinds(catalog) == [] and catalog.models() == [before]
    clock.passed += 10
    assert kinds(catalog) == ["changed"]
    assert (str(before.invalid), catalog.models()[0].invalid) == ("made of 2 files, of which 1 would be loaded", None)


def test_a_file_that_vanishes_while_it_is_written_is_looked_for_no_more(
    tmp_path: Path, clock: Clock, catalog: Catalog
) -> None:
    path = model().write(tmp_path / "m.gguf")
    catalog.refresh()
    path.unlink()
    assert catalog.settled()
    assert kinds(catalog) == []
    assert not catalog.settled() and catalog.unsettled() == set()


def test_the_first_scan_takes_files_as_they_are_and_looks_again(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model().encode()[:-40])
    made = Catalog([Folder("x", str(tmp_path))])
    made.refresh()
    assert "truncated" in str(made.models()[0].invalid)
    path.write_bytes(model().encode())
    set_now(path, clock)
    assert kinds(made) == []
    clock.passed += 10
    assert made.settled()
    assert kinds(made) == ["changed"] and made.models()[0].invalid is None


def test_a_file_that_gets_another_name_while_it_replaces_a_model_is_listed_by_that(
    tmp_path: Path, clock: Clock
) -> None:
    sources = [Folder("x", str(tmp_path))]
    old, new = tmp_path / "old.gguf", tmp_path / "new.gguf"
    os.utime(model("Old").write(old), (1000, 1000))
    made = Catalog(sources)
    made.refresh()
    model("New").write(tmp_path / "fresh").replace(old)
    made.refresh()
    old.replace(new)
    made.look_again(dict.fromkeys(map(str, (old, new)), sources[0]))
    assert ids(made) == []
    clock.passed += 1
    made.look_again({str(new): sources[0]})
    assert ids(made) == ["new"]


@pytest.mark.usefixtures("clock")
def test_what_is_not_listed_is_said_with_the_reason(tmp_path: Path) -> None:
    path = model().write(tmp_path / "b.gguf")
    for old in (GGUF({"general.architecture": "llama"}).write(tmp_path / "a.gguf"), path):
        os.utime(old, (1000, 1000))
    (tmp_path / "c.gguf").symlink_to(path)
    made = Catalog([File("--model-path", str(path)), Folder("x", str(tmp_path))])
    made.refresh()
    model().write(tmp_path / "d.gguf")
    made.refresh()
    assert [(os.path.basename(each.paths[0]), each.source, each.reason, each.name) for each in made.skipped()] == [
        ("a.gguf", "x", "not a model but a vocabulary", None),
        ("b.gguf", "x", "the same file as b", "b"),
        ("c.gguf", "x", "the same file as b", "c"),
        ("d.gguf", "x", "it is still being written", None),
    ]
    assert made.find("c") is made.find("b")
    assert made.further_names() == [("c", made.find("b"))]


def test_a_name_that_leads_to_another_model_is_none_of_a_file_that_was_found_before(tmp_path: Path) -> None:
    first, second = model("One").write(tmp_path / "x" / "a.gguf"), model("Two").write(tmp_path / "x" / "b.gguf")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "b.gguf").symlink_to(first)
    made = Catalog([Folder("x", str(tmp_path / "x")), Folder("y", str(tmp_path / "y"))])
    made.refresh()
    assert made.find("b").paths == (str(second),)
    assert [(each.reason, each.name) for each in made.skipped()] == [("the same file as a", None)]
    assert made.further_names() == []


WHOLE = [model(name).encode() for name in ("One", "Two")]
CONTENTS = [
    *WHOLE,
    WHOLE[0][:-40],
    WHOLE[0][:100],
    b"",
    b"GGUF",
    b"not a model",
    model(general__type="adapter").encode(),
]
NAMES = ["a.gguf", "b.gguf", "A.gguf", "sub/a.gguf", "s-00001-of-00002.gguf", "s-00002-of-00002.gguf", "other.txt"]


def observed(path: Path) -> object:
    """What the system tells of when it becomes another."""
    try:
        status = path.stat()
    except OSError:
        return None
    if path.is_dir():
        return "folder"
    return path.is_symlink(), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def facts(listing: Listing | None) -> list[object]:
    """All of a listing that does not only save work."""
    assert listing is not None
    skipped = sorted((each.paths, each.reason) for each in listing.skipped)
    return [
        *(listing.models, listing.id_of_name, listing.id_of_spelling, listing.id_of_file),
        *(skipped, listing.unsettled.keys()),
    ]


def by_name(catalog: Catalog) -> dict[str, tuple[object, ...]]:
    """What each name leads to. Which of its names is a model's id may depend on which was there first."""
    return {name: (each.identity, each.facts, each.invalid) for name, each in catalog.named()}


class Folders(RuleBasedStateMachine):
    """Whatever happens to files between scans, names end up leading to what they do in a catalogue which sees the files
    for the first time, and whoever only heard the changes knows the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        (self.folder / "sub").mkdir()
        self.sources = [Folder("x", str(self.folder))]
        # Of a listing it makes no difference that sources could be slow.
        self.catalog = Catalog(self.sources, patience_seconds=60)
        self.catalog.refresh()
        self.seen: dict[str, object] = {}
        self.heard: dict[str, Model] = {}
        self.catalog.on_change = self.hear

    def hear(self, change: Change) -> None:
        assert self.heard.get(change.id) == change.before
        if change.after is None:
            del self.heard[change.id]
        else:
            self.heard[change.id] = change.after

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from(CONTENTS), age=st.sampled_from([0, 100, -100]))
    def write(self, name: str, content: bytes, age: int) -> None:
        path = self.folder / name
        with suppress(IsADirectoryError, FileNotFoundError, OSError):
            path.write_bytes(content)
            os.utime(path, (time.time() - age, time.time() - age))

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / name).unlink()

    @rule(name=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
    def move(self, name: str, other: str) -> None:
        with suppress(OSError):
            (self.folder / name).replace(self.folder / other)

    @rule(name=st.sampled_from(NAMES), other=st.sampled_from([*NAMES, ".", "sub"]))
    def link(self, name: str, other: str) -> None:
        with suppress(OSError):
            (self.folder / name).symlink_to(self.folder / other)

    @rule()
    def scan(self) -> None:
        self.catalog.refresh()
        self.changed()
        self.agrees()

    @rule()
    def look_at_what_changed(self) -> None:
        """As a scan at the same time would see it, or not at all."""
        before, files = self.catalog._listing, self.changed()
        assert before is not None
        now, now_ns = time.monotonic(), time.time_ns()
        with mock.patch.object(time, "monotonic", lambda: now), mock.patch.object(time, "time_ns", lambda: now_ns):
            if files is None or self.catalog.look_again(files) is None:
                self.scan()
            else:
                assert facts(self.catalog._listing) == facts(scan(self.sources, before, {}))
                self.agrees()

    def changed(self) -> dict[str, Source] | None:
        """Since the last call; None if that concerns other files, as the watch would know."""
        before, self.seen = self.seen, {name: observed(self.folder / name) for name in NAMES}
        names = {name for name in NAMES if self.seen[name] != before.get(name)}
        if any(name.startswith("s-") for name in names) or "folder" in {*before.values(), *self.seen.values()}:
            return None
        return {str(self.folder / name): self.sources[0] for name in names if name.endswith(".gguf")}

    def agrees(self) -> None:
        assert self.heard == {model.id: model for model in self.catalog.models()}

    def teardown(self) -> None:
        try:
            later = time.monotonic() + 10
            with mock.patch.object(time, "monotonic", lambda: later):
                self.catalog.refresh()
            much_later = later + 10
            with mock.patch.object(time, "monotonic", lambda: much_later):
                self.catalog.refresh()
            self.agrees()
            fresh = Catalog([Folder("x", str(self.folder))])
            fresh.refresh()
            assert by_name(self.catalog) == by_name(fresh)
        finally:
            shutil.rmtree(self.folder)


TestFolders = Folders.TestCase
TestFolders.settings = settings(max_examples=60, stateful_step_count=15)
