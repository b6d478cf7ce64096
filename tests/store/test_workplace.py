"""Where files of the store are worked on: nothing of it outlives whoever works there."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.models.folders import Folder
from shimmy.store.folder import Store
from tests.fakes.gguf_writer import model

HELD = """
import sys
from shimmy.store.folder import Store
place = Store(sys.argv[1]).workplace()
print(place.path, flush=True)
input()
"""


def names(store: Store) -> list[str]:
    return sorted(os.listdir(Path(store.root) / "partial"))


def test_it_goes_with_all_that_is_in_it(store: Store) -> None:
    place = store.workplace()
    Path(place.file("half.gguf")).write_bytes(b"half")
    place.close()
    place.close()
    assert names(store) == []


def test_no_model_is_found_in_it(tmp_path: Path, store: Store) -> None:
    """Though the store is in a folder of models."""
    place = store.workplace()
    model().write(Path(place.file("quantized.gguf")))
    assert list(Folder("models", str(tmp_path)).find()) == []
    place.close()


def test_a_file_stays_there_though_the_blob_goes(store: Store) -> None:
    store.make()
    digest = store.put(b"weights")
    place = store.workplace()
    taken = place.take(store.blob(digest), "folder/model.gguf")
    store.discard(digest)
    assert store.size(digest) is None and Path(taken).read_bytes() == b"weights"
    assert os.path.relpath(taken, place.path) == os.path.join("folder", "model.gguf")
    place.close()


def test_where_files_cannot_be_linked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store.make()
    digest = store.put(b"weights")
    place = store.workplace()
    assert Path(place.take(store.blob(digest), "model.gguf")).read_bytes() == b"weights"
    place.close()
    assert store.size(digest) == 7


def test_a_blob_that_is_a_link(tmp_path: Path, store: Store) -> None:
    """To where there is room for it, from where the link is."""
    store.make()
    blob = Path(store.blob(store.put(b"weights")))
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to("../../elsewhere")
    place = store.workplace()
    assert Path(place.take(str(blob), "folder/model.gguf")).read_bytes() == b"weights"
    place.close()
    assert blob.read_bytes() == b"weights"


def test_one_whose_process_was_killed_goes(store: Store) -> None:
    """And one that is in use does not, however old."""

    def work() -> None:
        store.workplace().close()

    for sweep in (store.sweep, work):
        left_by_killed(store, sweep)
        sweep()
        assert names(store) == []


def left_by_killed(store: Store, sweep: Callable[[], None]) -> None:
    """While its process lives, `sweep` leaves it as it is."""
    with subprocess.Popen(
        [sys.executable, "-c", HELD, store.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        path = Path(other.stdout.readline().strip())
        (path / "half.gguf").write_bytes(b"half")
        os.utime(path, (0, 0))
        sweep()
        assert names(store) == [path.name, f"{path.name}.lock"] and (path / "half.gguf").exists()
        other.send_signal(signal.SIGKILL)
    assert (path / "half.gguf").exists()
