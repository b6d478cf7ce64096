"""Names and keys: different for all that differs, and silent about what they were made from."""

import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.worker.disk.index import is_entry
from shimmy.worker.disk.scope import Scope, is_private, private_namespace

KEY = b"k" * 32
parts = st.tuples(st.binary(max_size=6), st.binary(max_size=6), st.none() | st.binary(min_size=32, max_size=32))


def known(scope: Scope) -> tuple[object, ...]:
    return scope.id, scope.tag, scope.seal_key, scope.name(array.array("i", [1, 2, 3]))


@given(parts, parts)
def test_scopes_are_equal_when_everything_is(
    one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    if one == other:
        assert known(Scope(*one)) == known(Scope(*other))
    else:
        differing = zip(known(Scope(*one)), known(Scope(*other)), strict=True)
        assert all(mine != theirs or mine is None for mine, theirs in differing)


def test_names() -> None:
    scope = Scope(b"model", b"", None)
    assert is_entry(scope.name(array.array("i", [1])))
    assert len({scope.name(array.array("i", tokens)) for tokens in ([1], [1, 2], [2, 1], [256], [0, 1], [1, 0])}) == 6


def test_private_namespaces() -> None:
    names = [private_namespace(name, key) for name in ("", "adapter") for key in (KEY, bytes(32))]
    assert len(set(names)) == 4
    assert all(is_private(name) for name in names)
    assert not is_private("adapter")
    assert KEY.decode() not in names[0] and KEY.hex() not in names[0]


def test_nothing_shows_the_key() -> None:
    scope = Scope(b"model", b"", KEY)
    assert KEY.decode() not in repr(scope)
    assert KEY not in (scope.id, scope.seal_key)
    assert not hasattr(scope, "__dict__")


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Scope(b"model", b"", bytes(length))
