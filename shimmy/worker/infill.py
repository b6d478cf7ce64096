"""A text with a gap as the tokens of a prompt, for models that were trained to fill one.

    [repository] name [file] name, text ... [file] name [prefix] before the gap [suffix] behind it [middle]

as Qwen2.5-Coder was trained (arXiv 2409.12186), and llama-server's /infill has it. It cuts nothing but other files.
"""

from typing import TYPE_CHECKING

from shimmy.core.errors import Unsupported
from shimmy.core.request import File, Infill

if TYPE_CHECKING:
    from shimmy.worker.prompt import Vocabulary

# What llama-server calls them.
_REPOSITORY = "myproject\n"
_FILE = "filename\n"
# Between other files where the model has no token for that.
_SNIPPET = "\n\n--- snippet ---\n\n"


def infill_tokens(prompt: Infill, vocabulary: "Vocabulary", room: int) -> list[int]:
    """At most `room` tokens, unless the two texts alone are more. Raises `Unsupported` where the model cannot do it."""
    marks = vocabulary.infill_tokens
    if marks.prefix is None or marks.suffix is None or marks.middle is None:
        missing = [name for name in ("prefix", "suffix", "middle") if getattr(marks, name) is None]
        raise Unsupported(
            f"{prompt.field}: the model cannot fill a gap, it has no token for {' and '.join(missing)}",
            param=prompt.field,
        )

    def plain(text: str) -> list[int]:
        return vocabulary.tokenize(text, add_special=False, parse_special=False)

    start = [vocabulary.bos_token] if vocabulary.adds_bos and vocabulary.bos_token is not None else []
    before = [marks.prefix, *plain(prompt.prefix), *plain(prompt.prompt)]
    tokens = [*before, marks.suffix, *plain(prompt.suffix), marks.middle]
    others = _others(prompt.extra, vocabulary)
    num_others = min(len(others), max(0, room - len(start) - len(tokens)))
    return [*start, *others[len(others) - num_others :], *tokens]


def _others(files: list[File], vocabulary: "Vocabulary") -> list[int]:
    """The other files; the last are the nearest, and what is too much is cut at their beginning."""
    marks = vocabulary.infill_tokens

    def plain(text: str) -> list[int]:
        return vocabulary.tokenize(text, add_special=False, parse_special=False)

    tokens = [marks.repository, *plain(_REPOSITORY)] if marks.repository is not None else []
    for file in files:
        tokens += [marks.file, *plain(f"{file.name}\n")] if marks.file is not None else plain(_SNIPPET)
        tokens += plain(file.text)
    if marks.file is not None:
        tokens += [marks.file, *plain(_FILE)]
    return tokens
