"""A model whose tokens are the 256 bytes and some words, and whose last token ends a text."""

WORDS = [b'{"', b'":', b'", "', b"true", b"null", b"ab", b"abc", b"123", b"\n  ", b'"}']


class ByteModel:
    def __init__(self, words: list[bytes] = WORDS) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + words
        self.end = len(self.tokens)
        self.end_tokens = frozenset([self.end])

    def pieces(self) -> list[bytes]:
        return [*self.tokens, b""]
