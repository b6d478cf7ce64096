"""Makes a prompt that is too long fit, only where its request asked for that, and says what was dropped.

Knows messages and tokens, not how either is made of the other.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from shimmy.core.errors import Unsupported
from shimmy.core.events import Dropped
from shimmy.core.request import Chat, Generation, Infill, Message

# Kept free for the answer where the request does not say how long that may be.
RESERVED_TOKENS = 256


class Prompter(Protocol):
    """What renders and tokenizes (worker/prompt.py is the real one)."""

    def rendered(self, chat: Chat) -> str: ...
    def rendered_tokens(self, rendered: str) -> list[int]: ...
    def starts_with_bos(self, tokens: list[int]) -> bool: ...


def room(context_length: int, max_tokens: int | None) -> int:
    """How many tokens a prompt may have: the answer has the rest, but never more than half of the context."""
    return context_length - min(max_tokens or RESERVED_TOKENS, context_length // 2)


def truncated(
    generation: Generation, tokens: list[int], rendered: str | None, prompter: Prompter, context_length: int
) -> tuple[list[int], str | None, Dropped | None]:
    """The tokens that are left, as text where they are of a chat, and what was dropped. What still does not fit is
    left as it is. Raises `Unsupported` for what cannot be cut like that."""
    policy, prompt = generation.truncation, generation.prompt
    limit = room(context_length, generation.max_tokens)
    if policy is None:
        return tokens, rendered, None
    if policy.what == "oldest_turns":
        if not isinstance(prompt, Chat):
            raise Unsupported("truncation: only a chat has turns", param="truncation")
        return _without_turns(prompt, tokens, rendered, prompter, limit)
    if isinstance(prompt, Infill):
        raise Unsupported("truncate_prompt_tokens: not for a text with a gap", param="truncate_prompt_tokens")
    num_kept = limit if policy.num_tokens < 0 else policy.num_tokens
    kept = cut(tokens, num_kept, prompter.starts_with_bos(tokens), keeps_end=policy.what == "first_tokens")
    dropped = Dropped(policy.what, len(tokens) - len(kept)) if len(kept) < len(tokens) else None
    return kept, rendered, dropped


def cut(tokens: list[int], num_kept: int, has_bos: bool, *, keeps_end: bool) -> list[int]:
    """At most `num_kept` tokens, one at least. The token that begins every text stays."""
    num_kept = max(1, num_kept)
    if len(tokens) <= num_kept:
        return tokens
    if not keeps_end:
        return tokens[:num_kept]
    begin = tokens[:1] if has_bos and num_kept > 1 else []
    return begin + tokens[len(tokens) - num_kept + len(begin) :]


def _without_turns(
    chat: Chat, tokens: list[int], rendered: str | None, prompter: Prompter, limit: int
) -> tuple[list[int], str | None, Dropped | None]:
    if len(tokens) <= limit:
        return tokens, rendered, None
    units = droppable(chat.messages)

    def without(num_units: int) -> tuple[int, str, list[int]]:
        gone = {at for unit in units[:num_units] for at in unit}
        left = [message for at, message in enumerate(chat.messages) if at not in gone]
        text = prompter.rendered(msgspec.structs.replace(chat, messages=left))
        return len(gone), text, prompter.rendered_tokens(text)

    found = _first(len(units), without, limit)
    if found is None:
        return tokens, rendered, None
    num_messages, text, kept = found
    return kept, text, Dropped("oldest_turns", len(tokens) - len(kept), num_messages)


def _first(
    num_units: int, without: Callable[[int], tuple[int, str, list[int]]], limit: int
) -> tuple[int, str, list[int]] | None:
    """What is left without the fewest units that make the rest fit. Rendering takes time: it is done for few."""
    least, most = 1, num_units
    found = None
    while least <= most:
        middle = (least + most) // 2
        tried = without(middle)
        if len(tried[2]) <= limit:
            found, most = tried, middle - 1
        else:
            least = middle + 1
    return found


def droppable(messages: list[Message]) -> list[list[int]]:
    """The numbers of the messages that may go together, the first to go first: the turns before the last, each from a
    user's message to the next, so that speakers go on to alternate; then, of the last turn, calls with their results,
    but for the last ones. What the system says stays."""
    spoken = [at for at, message in enumerate(messages) if message.role != "system"]
    turns: list[list[int]] = []
    for at in spoken:
        if not turns or messages[at].role == "user":
            turns.append([])
        turns[-1].append(at)
    *earlier, last = turns or [[]]
    return earlier + _calls(messages, last)[:-1]


def _calls(messages: list[Message], turn: list[int]) -> list[list[int]]:
    """The calls of a turn, each with its results and what else follows."""
    units: list[list[int]] = []
    for at in turn:
        if messages[at].role == "assistant" and messages[at].tool_calls:
            units.append([at])
        elif units:
            units[-1].append(at)
    return units
