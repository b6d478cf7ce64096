"""A model's tokens in the eyes of llguidance."""

from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import Guide
from tests.worker.constraints.byte_model import ByteModel


def guide(model: ByteModel, regex: str) -> Guide:
    return Compiler(model).compile(Constraint("regex", regex, "regex")).guide()


def test_control_tokens_never_come() -> None:
    model = ByteModel([b"", b"ab"])
    mask = guide(model, "(?s:.*)").mask()
    assert not mask[256] and mask[257] and mask[model.end]


def test_every_end_token_ends() -> None:
    class TwoEnds(ByteModel):
        def __init__(self) -> None:
            super().__init__()
            self.end_tokens = frozenset([7, self.end])

    model = TwoEnds()
    for end in (7, model.end):
        place = guide(model, "a+")
        assert not place.take(end)
        assert place.take(ord("a")) and place.take(end)
        assert place.is_complete and place.is_met("a", is_cut=False)


def test_a_model_without_an_end_token_ends_when_nothing_may_follow() -> None:
    class Endless(ByteModel):
        end_tokens: frozenset[int] = frozenset()

        def __init__(self) -> None:
            self.tokens = [bytes([byte]) for byte in range(256)]

        def pieces(self) -> list[bytes]:
            return list(self.tokens)

    place = guide(Endless(), "ab?")
    assert place.take(ord("a"))
    # No token of the model may stand for the end.
    assert [at for at, mark in enumerate(place.mask()) if mark] == [ord("b"), 256]
    assert place.take(ord("b")) and place.is_complete
