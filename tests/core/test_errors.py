from collections.abc import Iterator

import msgspec
import pytest

from shimmy.core import errors
from shimmy.core.errors import ContextOverflow, Fault, ShimmyError, from_fault


def tree(cls: type[ShimmyError] = ShimmyError) -> Iterator[type[ShimmyError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from tree(sub)


CLASSES = [cls for cls in tree() if cls.__module__ == errors.__name__]


def test_every_class_has_its_own_code() -> None:
    codes = [cls.code for cls in CLASSES]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_survives_the_way_through_a_frame(cls: type[ShimmyError]) -> None:
    error = cls("what happened", param="messages[0].role", num_prompt_tokens=9000, context_length=8192)
    fault = msgspec.msgpack.decode(msgspec.msgpack.encode(error.fault()), type=Fault)
    again = from_fault(fault)
    assert type(again) is cls
    assert (again.message, again.param, again.details) == (error.message, error.param, error.details)
    assert str(again) == "what happened"


@pytest.mark.parametrize("cls", CLASSES)
def test_status_is_an_error_status(cls: type[ShimmyError]) -> None:
    assert 400 <= cls.status <= 599


def test_a_code_from_a_newer_worker_becomes_an_internal_error() -> None:
    error = from_fault(Fault("not_yet_invented", "text", None, {"a": 1}))
    assert type(error) is ShimmyError
    assert (error.status, error.message, error.details) == (500, "text", {"a": 1})


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("├──", "").replace("└──", "").replace("│", "").split()
        if len(words) == 3 and words[1].isdigit():
            drawn[words[0]] = (int(words[1]), words[2])
    assert drawn == {cls.__name__: (cls.status, cls.code) for cls in CLASSES}


def test_context_overflow_is_caught_as_a_request_error() -> None:
    with pytest.raises(errors.RequestError) as caught:
        raise ContextOverflow("too long", param="messages")
    assert caught.value.code == "context_length_exceeded"
