"""Text is whole characters, and how tokens split it changes nothing."""

from hypothesis import given
from hypothesis import strategies as st

from shimmy.worker.text import TextStream

texts = st.text(alphabet=st.sampled_from("abcé→😀 \n"), max_size=60)
stop_lists = st.lists(st.text(alphabet=st.sampled_from("abcé😀"), min_size=1, max_size=4), max_size=3)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def run(pieces: list[bytes], stops: list[str]) -> tuple[str, str | None]:
    stream, sent = TextStream(stops), ""
    for piece in pieces:
        text, stop = stream.push(piece)
        sent += text
        if stop is not None:
            return sent, stop
    return sent + stream.flush(), None


@given(texts, stop_lists, st.lists(st.integers(0, 300), max_size=30))
def test_any_split_of_the_bytes_gives_the_same_text(text: str, stops: list[str], cuts: list[int]) -> None:
    sent, stop = run(split(text.encode(), cuts), stops)
    reached = [text.index(each) for each in stops if each in text]
    assert (stop is not None) == bool(reached)
    if stop is None:
        assert sent == text
    else:
        # A stop string is seen when it completes, so a longer one that began earlier may still be open.
        assert text.startswith(sent + stop)
        assert not any(each in sent for each in stops)


@given(texts, st.lists(st.integers(0, 300), max_size=30))
def test_a_delta_never_ends_inside_a_character(text: str, cuts: list[int]) -> None:
    stream = TextStream([])
    sent = "".join(stream.push(piece)[0] for piece in split(text.encode(), cuts))
    assert sent == text and "\ufffd" not in sent


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    stream = TextStream([])
    assert stream.push(b"a\xff")[0] + stream.push(b"b")[0] == "a\ufffdb"


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    stream = TextStream([])
    assert stream.push("é".encode()[:1]) == ("", None)
    assert stream.flush() == ""


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(["<end>"])
    assert stream.push(b"hello <e") == ("hello ", None)
    assert stream.push(b"gg> <") == ("<egg> ", None)
    assert stream.push(b"end>more") == ("", "<end>")


def test_the_stop_string_that_begins_first_wins() -> None:
    assert TextStream(["world", "lo w"]).push(b"hello world") == ("hel", "lo w")
