"""Keys, as they are handed around."""

import msgspec


class Secret(msgspec.Struct, frozen=True):
    """Bytes that must not be seen where what holds them is logged."""

    value: bytes

    def __repr__(self) -> str:
        return "Secret(...)"
