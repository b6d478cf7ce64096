"""Types by the names that people have for them."""

import pytest

from shimmy.models.facts import FILE_TYPES
from shimmy.models.quantizing import file_type


@pytest.mark.parametrize(
    ("name", "meant"),
    [("q4_K_M", "Q4_K_M"), ("q4_k", "Q4_K_M"), ("Q5_K", "Q5_K_M"), ("q8_0", "Q8_0"), ("f16", "F16"), ("BF16", "BF16")],
)
def test_a_type_by_its_name(name: str, meant: str) -> None:
    assert FILE_TYPES[file_type(name)] == meant


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("int4", "'int4' is none of F32, F16, Q4_0"),
        ("IQ2_XS", "importance matrix"),
        ("nvfp4", "none of"),
        ("", "none of"),
    ],
)
def test_what_cannot_be_made(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        file_type(name)
