"""What a GGUF file says about sampling its model: the keys general.sampling.* as fields of `Sampling`.

The server reads them from the header, a worker asks llama.cpp. Values are as untrusted as the file: one that is not a
value of its field is left out.
"""

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from shimmy.core.request import SAMPLER_ORDER, SamplerName, Sampling

_PREFIX = "general.sampling."
# llama.cpp, src/llama-arch.cpp; "sequence" is apart
_FIELDS = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "temp": "temperature",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repetition_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
_SEQUENCE = "sequence"
# llama.cpp, common/sampling.cpp, common_sampler_types_from_names
_ALIASES = {"temp": "temperature", "typ": "typ_p", "typical_p": "typ_p", "nucleus": "top_p"}
_ALIASES |= {name.replace("_", ""): name for name in SAMPLER_ORDER}


def own_sampling(get: Callable[[str], Any], ignored: Callable[[str, Any], None]) -> dict[str, Any]:
    """Fields of `Sampling` with the values that a file has for them.

    `get` gives the value of a key, a number or its text, or None; `ignored` is told of each that is not used.
    """
    own: dict[str, Any] = {}
    for key, field in _FIELDS.items():
        value = get(_PREFIX + key)
        if value is None:
            continue
        try:
            known = msgspec.convert(value, Sampling.__annotations__[field], strict=False)
        except msgspec.ValidationError:
            ignored(_PREFIX + key, value)
        else:
            # 32 bits in the file: 0.6 is 0.6000000238418579 there.
            own[field] = float(f"{known:.6g}") if isinstance(known, float) else known
    sequence = get(_PREFIX + _SEQUENCE)
    if isinstance(sequence, str) and sequence:
        if samplers := known_samplers(sequence.split(";")):
            own["samplers"] = samplers
        else:
            ignored(_PREFIX + _SEQUENCE, sequence)
    return own


def known_samplers(names: list[str]) -> tuple[SamplerName, ...]:
    """The samplers meant by llama.cpp's names for them, each once. Others are left out, as llama.cpp does."""
    meant = (sampler_name(name) for name in names)
    return tuple(dict.fromkeys(name for name in meant if name is not None))


def sampler_name(name: str) -> SamplerName | None:
    """The sampler of that name; llama.cpp writes them in several ways."""
    plain = name.strip().lower().replace("-", "_")
    plain = _ALIASES.get(plain, plain)
    return next((known for known in get_args(SamplerName) if known == plain), None)
