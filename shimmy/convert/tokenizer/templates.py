"""The chat templates, wherever the checkpoint has them."""

from typing import Any

from shimmy.convert.gguf import Value
from shimmy.models.checkpoint import Checkpoint


def template_keys(checkpoint: Checkpoint) -> dict[str, Value]:
    """The one called "default" has no name; others are named after what they are for."""
    named = _templates(checkpoint)
    keys: dict[str, Value] = {}
    for name, template in named.items():
        keys["tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}"] = template
    others = [name for name in named if name != "default"]
    return keys | ({"tokenizer.chat_templates": others} if others else {})


def _templates(checkpoint: Checkpoint) -> dict[str, str]:
    said: Any = checkpoint.json("tokenizer_config.json").get("chat_template")
    if said is None:
        said = checkpoint.text("chat_template.jinja") or checkpoint.json("chat_template.json").get("chat_template")
    if isinstance(said, str):
        return {"default": said}
    found: dict[str, str] = {}
    for each in said if isinstance(said, list) else []:
        match each:
            case {"name": str(name), "template": str(template)}:
                found["".join(letter for letter in name.lower() if letter.isalnum() or letter == "_")] = template
    return found
