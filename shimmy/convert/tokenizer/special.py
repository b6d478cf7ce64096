"""The tokens that begin, end, part and fill texts, and which of them are put there unasked."""

from typing import Any

from shimmy.convert.gguf import Value
from shimmy.convert.tokenizer.files import TokenizerFiles, steps

_KEYS = {
    "bos": "bos",
    "eos": "eos",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
    "eot": "eot",
}
_ADDED = ("bos", "eos", "sep")


def special_keys(files: TokenizerFiles, num_tokens: int) -> dict[str, Value]:
    names = _names(files.config)
    added: dict[str, bool] = {}
    for step in steps(files.post_processor, "processors"):
        if step.get("type") == "ByteLevel":
            added = {"bos": False, "eos": False} | added
        elif step.get("type") == "TemplateProcessing":
            _read_template(step, names, added)
    for kind in _ADDED:
        said = files.config.get(f"add_{kind}_token")
        if isinstance(said, bool):
            added.setdefault(kind, said)
    ids = _ids(files, names, num_tokens)
    keys: dict[str, Value] = {f"tokenizer.ggml.{_KEYS[kind]}_token_id": id for kind, id in ids.items()}
    return keys | {f"tokenizer.ggml.add_{kind}_token": value for kind, value in added.items()}


def _names(config: dict[str, Any]) -> dict[str, str]:
    """How tokenizer_config.json calls them; what classifies a text begins it, what parts two texts ends one."""
    names: dict[str, str] = {}
    for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        said = config.get(f"{kind}_token")
        text = said.get("content") if isinstance(said, dict) else said
        if isinstance(text, str) and text:
            names[kind] = text
    for kind, instead in (("bos", "cls"), ("eos", "sep")):
        if kind not in names and instead in names:
            names[kind] = names[instead]
    return names


def _read_template(step: dict[str, Any], names: dict[str, str], added: dict[str, bool]) -> None:
    """What a template puts before and behind one text, and between two. One that ends texts otherwise than the
    configuration says is right: what that has ends a turn."""
    single = _parts(step.get("single"))
    first = last = None
    if len(single) > 1:
        first, last = single[0][0], single[-1][0]
        if first is not None:
            names.setdefault("bos", first)
            names.setdefault("cls", first)
            added["bos"] = first in (names["bos"], names["cls"])
        if last is not None:
            if last != names.get("eos"):
                if "eos" in names:
                    names["eot"] = names["eos"]
                names["eos"] = last
            added["eos"] = True
    pair = _parts(step.get("pair"))
    if pair and first is not None and pair[0][0] == first:
        pair = pair[1:]
    if pair and last is not None and pair[-1][0] == last:
        pair = pair[:-1]
    between = pair[1:-1]
    if between and (pair[0][1], pair[-1][1]) == ("A", "B"):
        parts = (names.get("sep"), names.get("eos"))
        added["sep"] = (between[0][0] in parts and last is None) or (len(between) == 2 and between[1][0] in parts)


def _parts(said: Any) -> list[tuple[str | None, str | None]]:
    """(special token, sequence) of each part of a template, one of them None."""
    found: list[tuple[str | None, str | None]] = []
    for part in said if isinstance(said, list) else []:
        token = part.get("SpecialToken", {}) if isinstance(part, dict) else {}
        sequence = part.get("Sequence", {}) if isinstance(part, dict) else {}
        found.append((_id_of(token), _id_of(sequence)))
    return found


def _id_of(part: Any) -> str | None:
    id = part.get("id") if isinstance(part, dict) else None
    return id if isinstance(id, str) else None


def _ids(files: TokenizerFiles, names: dict[str, str], num_tokens: int) -> dict[str, int]:
    """By what the tokenizer says, else by config.json, which may have several ends: those llama.cpp finds itself."""
    known = files.ids()
    ids: dict[str, int] = {}
    for kind in _KEYS:
        id = known.get(names.get(kind, ""))
        if id is None:
            said = files.model_config.get(f"{kind}_token_id")
            id = said if type(said) is int else None
        if id is not None and 0 <= id < num_tokens:
            ids[kind] = id
    return ids
