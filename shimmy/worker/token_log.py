"""The tokens of one choice on their way out with the text they became. Knows their bytes, not how they were found.

A token may end inside a character, and a stop string may begin inside a token. So a token leaves with the text that it
completes, never before it, and what no text came of never leaves: the bytes of all tokens that left make the text.
Where every token has to be told, what no text came of leaves at the end, without bytes.
"""

import codecs

import msgspec

from shimmy.core.events import TokenLogprob

_new_decoder = codecs.getincrementaldecoder("utf-8")


class _Group:
    """Tokens up to where a character ends; one, mostly. `end` counts the characters of the choice up to there."""

    __slots__ = ("end", "text", "tokens")

    def __init__(self, end: int) -> None:
        self.tokens: list[TokenLogprob] = []
        self.text = ""
        self.end = end


class TokenLog:
    def __init__(self, *, has_every_token: bool = False) -> None:
        self.has_every_token = has_every_token
        self._decoder = _new_decoder("replace")
        self._groups: list[_Group] = []
        self._is_open = False
        self._num_decoded = 0
        self._num_sent = 0

    def add(self, token: TokenLogprob) -> None:
        if not self._is_open:
            self._groups.append(_Group(self._num_decoded))
        group = self._groups[-1]
        text = self._decoder.decode(token.bytes)
        group.tokens.append(token)
        group.text += text
        self._num_decoded += len(text)
        group.end = self._num_decoded
        self._is_open = bool(self._decoder.getstate()[0])

    def take(self, text: str, *, last: bool = False) -> list[TokenLogprob]:
        """Those that leave with `text`; with `last` the beginning of the one that was cut, too."""
        return self.take_to(self._num_sent + len(text), last=last)

    def take_to(self, num_chars: int, *, last: bool = False) -> list[TokenLogprob]:
        """Those of the first `num_chars` that have not left; the number may be smaller than before."""
        self._num_sent = max(self._num_sent, num_chars)
        whole = [group for group in self._groups if group.end <= self._num_sent]
        if self._is_open and whole and whole[-1] is self._groups[-1]:
            whole.pop()
        del self._groups[: len(whole)]
        tokens = [token for group in whole for token in group.tokens]
        if last:
            for group in self._groups if self.has_every_token else self._groups[:1]:
                tokens += self._cut(group)
        return tokens

    def _cut(self, group: _Group) -> list[TokenLogprob]:
        num_chars = self._num_sent - (group.end - len(group.text))
        num_bytes = len(group.text[:num_chars].encode()) if num_chars > 0 else 0
        tokens = []
        for token in group.tokens:
            if num_bytes <= 0 and not self.has_every_token:
                break
            tokens.append(msgspec.structs.replace(token, bytes=token.bytes[: max(0, num_bytes)]))
            num_bytes -= len(token.bytes)
        return tokens
