"""Reads the header of a GGUF file and trusts nothing in it: every count, length and offset is checked before it is
used. Knows the format, not where files lie and not llama.cpp. Everything wrong is a `ModelInvalid` with the reason.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from shimmy.models.gguf.checks import Kind, check_servable, kind_of
from shimmy.models.gguf.header import Header, read_header
from shimmy.models.gguf.metadata import Array
from shimmy.models.gguf.tensors import Tensor
from shimmy.models.gguf.vocabulary import num_tokens

__all__ = ["Array", "Header", "Kind", "Tensor", "check_servable", "kind_of", "num_tokens", "read_header"]
