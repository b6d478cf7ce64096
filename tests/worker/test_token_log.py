"""Tokens leave with the text that they became, and make all of it, however tokens and characters overlap."""

from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.events import TokenLogprob
from shimmy.worker.text import TextStream
from shimmy.worker.token_log import TokenLog

texts = st.text(alphabet=st.sampled_from("abcé→😀 \n"), max_size=40)
stop_lists = st.lists(st.text(alphabet=st.sampled_from("abcé😀"), min_size=1, max_size=4), max_size=3)
Delta = tuple[str, list[TokenLogprob]]


def run(pieces: list[bytes], stops: list[str]) -> list[Delta]:
    """As the loop does it."""
    stream, log = TextStream(stops), TokenLog()
    deltas: list[Delta] = []
    for piece in pieces:
        log.add(TokenLogprob(piece, -1.0))
        text, stop = stream.push(piece)
        deltas.append((text, log.take(text)))
        if stop is not None:
            return [*deltas, ("", log.take("", last=True))]
    held = stream.flush()
    return [*deltas, (held, log.take(held, last=True))]


@st.composite
def splits(draw: st.DrawFn) -> list[bytes]:
    """A text in tokens, which may end anywhere, be empty, and end before the text does."""
    data = draw(texts).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    edges = [0, *cuts, draw(st.sampled_from([len(data), max(cuts, default=0)]))]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@given(splits(), stop_lists)
def test_the_tokens_make_the_text_byte_by_byte(pieces: list[bytes], stops: list[str]) -> None:
    deltas = run(pieces, stops)
    text = "".join(text for text, _ in deltas)
    assert b"".join(token.bytes for _, tokens in deltas for token in tokens) == text.encode()


@given(splits(), stop_lists)
def test_no_token_leaves_before_its_text(pieces: list[bytes], stops: list[str]) -> None:
    text, told = "", b""
    for more, tokens in run(pieces, stops):
        text += more
        told += b"".join(token.bytes for token in tokens)
        assert text.encode().startswith(told)


def test_a_character_of_two_tokens_brings_both() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert [(text, [token.bytes for token in tokens]) for text, tokens in run([first, second], [])] == [
        ("", []),
        ("é", [first, second]),
        ("", []),
    ]


def test_a_token_that_a_stop_string_cuts_keeps_its_beginning() -> None:
    assert [(text, [token.bytes for token in tokens]) for text, tokens in run([b"yes", b" and END"], ["END"])] == [
        ("yes", [b"yes"]),
        (" and ", []),
        ("", [b" and "]),
    ]


def test_tokens_without_text_leave_too() -> None:
    deltas = run([b"", b"a", b""], [])
    assert [len(tokens) for _, tokens in deltas] == [1, 1, 1, 0]
