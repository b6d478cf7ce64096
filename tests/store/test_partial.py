"""A blob that grows: whatever is in the journal and the file, only what is sound is believed."""

import zlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shimmy.store.partial import Follower, Partial, num_arrived

CHUNK = 16
CONTENT = bytes(range(5 * CHUNK + 3))


def grown(path: Path, *chunks: int) -> Partial:
    partial = Partial(str(path), len(CONTENT), CHUNK)
    partial.check(lambda: None)
    for chunk in chunks:
        piece = memoryview(CONTENT)[chunk * CHUNK : (chunk + 1) * CHUNK]
        partial.write(chunk * CHUNK, piece)
        partial.finish(chunk, zlib.crc32(piece))
    return partial


def arrived(path: Path, size: int = len(CONTENT), chunk_bytes: int = CHUNK) -> set[int]:
    partial = Partial(str(path), size, chunk_bytes)
    partial.check(lambda: None)
    partial.close()
    return partial.arrived


def test_what_arrived_is_there_for_the_next(tmp_path: Path) -> None:
    partial = grown(tmp_path / "x", 0, 5, 2)
    assert partial.num_bytes == 2 * CHUNK + 3
    partial.close()
    assert arrived(tmp_path / "x") == {0, 2, 5}
    assert num_arrived(str(tmp_path / "x")) == 3
    assert arrived(tmp_path / "x", chunk_bytes=CHUNK * 2) == set()


def test_another_size_begins_anew(tmp_path: Path) -> None:
    grown(tmp_path / "x", 0, 1).close()
    assert arrived(tmp_path / "x", len(CONTENT) + 1) == set()
    assert (tmp_path / "x").stat().st_size == len(CONTENT) + 1


def test_a_file_that_is_gone_begins_anew(tmp_path: Path) -> None:
    grown(tmp_path / "x", 0, 1).close()
    (tmp_path / "x").unlink()
    assert arrived(tmp_path / "x") == set()


@given(st.integers(0, 200), st.binary(max_size=40), st.integers(0, len(CONTENT) - 1), st.integers(0, 255))
def test_whatever_happens_to_journal_and_file(tmp_path_factory, at: int, rubbish: bytes, where: int, byte: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("partial") / "x"
    grown(path, 0, 1, 3, 5).close()
    journal = path.with_name("x.chunks")
    journal.write_bytes(journal.read_bytes()[:at] + rubbish)
    damaged = bytearray(path.read_bytes())
    damaged[where] = byte
    path.write_bytes(damaged)
    partial = Partial(str(path), len(CONTENT), CHUNK)
    partial.check(lambda: None)
    sound = {chunk for chunk in partial.arrived if partial.read(chunk) == CONTENT[chunk * CHUNK :][:CHUNK]}
    assert partial.arrived == sound
    missing = set(range(6)) - sound
    partial.close()
    partial = grown(path, *missing)
    follower = Follower(partial)
    while follower.advance():
        pass
    partial.close()
    assert follower.num_hashed == 6 and path.read_bytes() == CONTENT
    assert arrived(path) == set(range(6))
