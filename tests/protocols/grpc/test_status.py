"""How errors become trailers."""

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core import errors
from shimmy.core.errors import ShimmyError
from shimmy.protocols.grpc import status
from shimmy.protocols.grpc.status import CODES, code_of, percent_encoded, trailers
from tests.test_docs import rows


def classes(cls: type[ShimmyError]) -> list[type[ShimmyError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in classes(sub))]


def test_every_error_has_the_code_that_the_page_says() -> None:
    names = {name: getattr(status, code) for name, code in rows("grpc.md", "error")}
    assert names == {
        cls.__name__: code_of(cls("")) for cls in classes(ShimmyError) if cls.__module__ == errors.__name__
    }
    assert set(CODES) <= set(classes(ShimmyError))


def test_what_trailers_tell() -> None:
    error = errors.Busy("100 % full", retry_after_seconds=0.25)
    assert trailers(error) == [
        (b"grpc-status", b"8"),
        (b"grpc-message", b"100 %25 full"),
        (b"error-code", b"queue_full"),
        (b"grpc-retry-pushback-ms", b"250"),
    ]
    assert (b"error-param", b"params.top_k") in trailers(errors.RequestError("no", param="params.top_k"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_message_can_be_told(text: str) -> None:
    encoded = percent_encoded(text)
    assert unquote(encoded.decode("ascii")) == text
    assert all(0x20 <= byte <= 0x7E for byte in encoded)


@pytest.mark.parametrize("text", ["a" * 10_000, "ä" * 10_000, "\ud800"])
def test_a_message_is_cut_between_characters(text: str) -> None:
    assert unquote(percent_encoded(text).decode(), errors="strict").strip(text[0]) in ("", "?")
    assert len(percent_encoded(text)) <= 4096
