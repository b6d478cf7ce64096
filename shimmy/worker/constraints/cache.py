"""Keeps the constraints that were compiled last, within a number of bytes. Knows nothing of what it keeps."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Least recently used first out. For one thread alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: Hashable, make: Callable[[], Value], size_of: Callable[[Value], int]) -> Value:
        """What is kept for `key`; otherwise what `make` makes, kept if it is not larger than all there may be."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        value = make()
        size = size_of(value)
        self._entries[key] = value, size
        self.num_bytes += size
        while self.num_bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.num_bytes -= freed
        return value

    def drop(self, key: Hashable) -> None:
        if entry := self._entries.pop(key, None):
            self.num_bytes -= entry[1]
