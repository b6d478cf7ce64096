"""What models can be quantized to, by the names of types, and which of them have lost something already."""

from collections.abc import Sequence

from shimmy.models.facts import FILE_TYPES
from shimmy.models.gguf import check_servable, read_header

# llama-quant.cpp, tensor_requires_imatrix and what it gives to the tensors of such files: too few bits to choose well
# without knowing which weights matter.
_NEED_IMPORTANCE_MATRIX = frozenset("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M Q2_K_S IQ3_XXS IQ3_XS".split())
# The same, llama_ftype_get_default_type: llama.cpp reads such files and makes none.
_NOT_MADE = frozenset({"NVFP4"})
_NOT_QUANTIZED = frozenset("F32 F16 BF16 F64 I8 I16 I32 I64".split())
# llama.cpp's own tool and Ollama know these under two names.
_OTHER_NAMES = {f"Q{bits}_K": f"Q{bits}_K_M" for bits in (3, 4, 5)}


def file_type(name: str) -> int:
    """llama.cpp's number for it, whatever the spelling. Raises `ValueError` for what cannot be made."""
    numbers = {known: number for number, known in FILE_TYPES.items() if known not in _NOT_MADE}
    wanted = _OTHER_NAMES.get(name.upper(), name.upper())
    if wanted in _NEED_IMPORTANCE_MATRIX:
        raise ValueError(f"{wanted} takes an importance matrix, which cannot be given here.")
    if wanted not in numbers:
        offered = ", ".join(known for known in numbers if known not in _NEED_IMPORTANCE_MATRIX)
        raise ValueError(f"{name[:80]!r} is none of {offered}.")
    return numbers[wanted]


def quantized_types(paths: Sequence[str]) -> list[str]:
    """Those of the tensors of a model in GGUF that have been quantized. Raises `ModelInvalid`."""
    headers = [read_header(path) for path in paths]
    check_servable(headers)
    return sorted({tensor.type for header in headers for tensor in header.tensors} - _NOT_QUANTIZED)
