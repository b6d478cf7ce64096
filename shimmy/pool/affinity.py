"""Which worker of several a prompt goes to: the one that had the last one that began alike, which is in its cache.

Knows no tokens. A conversation begins with its messages up to the first of the user, other prompts with so much text.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.request import Chat, Generation, Infill, Text

if TYPE_CHECKING:
    from shimmy.pool.supervisor import Supervisor

MAX_REMEMBERED = 4096
_CHARS = 256
_TOKENS = 64
# So many requests more than others a worker may have that has all of a conversation but its last turn.
_MORE = 2


class Affinity:
    """Owns what is remembered of the prompts of one model. Nothing is lost with it but time."""

    def __init__(self) -> None:
        # Those used last are at the end.
        self._worker_of: dict[bytes, Supervisor] = {}

    def choose(self, request: Generation, workers: "Sequence[Supervisor]") -> "Supervisor":
        """One of `workers`; of those with the fewest requests the first where nothing else counts."""
        fewest = min(workers, key=lambda each: each.num_running)
        beginning = _beginning(request)
        worker = self._worker_of.pop(beginning, fewest)
        if worker not in workers or _is_busier(worker, fewest, _MORE if _goes_on(request) else 0):
            worker = fewest
        self._worker_of[beginning] = worker
        if len(self._worker_of) > MAX_REMEMBERED:
            del self._worker_of[next(iter(self._worker_of))]
        return worker


def _is_busier(worker: "Supervisor", other: "Supervisor", allowed: int) -> bool:
    has_to_wait = worker.num_running >= worker.options.num_sequences > other.num_running
    return has_to_wait or worker.num_running > other.num_running + allowed


def _goes_on(request: Generation) -> bool:
    """Much more of it was computed before than what many prompts have in common."""
    return isinstance(request.prompt, Chat) and any(message.role == "assistant" for message in request.prompt.messages)


def _beginning(request: Generation) -> bytes:
    """The same for prompts that begin alike, for the tenant whose cache it is."""
    match request.prompt:
        case Chat(messages):
            roles = [message.role for message in messages]
            end = roles.index("user") + 1 if "user" in roles else len(roles)
            prompt = [(message.role, message.content) for message in messages[:end]]
        case Text(text):
            prompt = [("", text[:_CHARS])]
        case Infill(prefix):
            prompt = [("", prefix[:_CHARS])]
        case tokens:
            prompt = [("", str(tokens.ids[:_TOKENS]))]
    return blake2b(msgspec.msgpack.encode((request.tenant, prompt)), digest_size=16).digest()
