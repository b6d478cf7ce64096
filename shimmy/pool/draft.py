"""The draft model that a person named, as files for the workers."""

import os
from typing import TYPE_CHECKING

from shimmy.core.errors import ModelFailed, ShimmyError

if TYPE_CHECKING:
    from shimmy.models.catalog import Catalog


class DraftModel:
    def __init__(self, catalog: "Catalog", name: str) -> None:
        """`name` is a file, or what the catalog has by that name."""
        self._catalog = catalog
        self._name = name

    def paths(self) -> tuple[str, ...]:
        """The file, or all shards in order. Raises `ModelFailed` when there is none."""
        if os.path.isfile(self._name):
            return (os.path.abspath(self._name),)
        try:
            return tuple(self._catalog.find(self._name).paths)
        except ShimmyError as error:
            raise ModelFailed(f"--model-draft: {error.message}") from error
