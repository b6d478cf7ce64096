"""The LoRA adapters that a person named, for the workers of the model that they are for."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from shimmy.core.engine_settings import parse_adapter
from shimmy.core.errors import ModelFailed, ShimmyError
from shimmy.core.ipc import Adapter
from shimmy.core.settings import Settings
from shimmy.models.checkpoint import means

if TYPE_CHECKING:
    from shimmy.models.catalog import Catalog
    from shimmy.models.listing import Model


class Adapters:
    """They are for `Settings.lora_model`, else for the file that a person gave to be served (`--model-path`, else
    SHIMMY_BASE_GGUF), else for every model."""

    def __init__(self, settings: Settings, catalog: "Catalog", environ: Mapping[str, str]) -> None:
        self._texts = settings.engine.lora if settings.engine is not None else ()
        self._catalog = catalog
        self._name = settings.lora_model
        base = environ.get("SHIMMY_BASE_GGUF")
        self._file = _whole(settings.model_path) or (_whole(base) if base and not _is_folder(base) else None)

    def of(self, model: "Model") -> tuple[Adapter, ...]:
        """Those to be loaded with a model. Raises `ModelFailed` for a file that has gone."""
        if not self._fits(model):
            return ()
        try:
            return tuple(parse_adapter(text) for text in self._texts)
        except ValueError as error:
            raise ModelFailed(str(error)) from error

    def _fits(self, model: "Model") -> bool:
        if self._name is not None:
            try:
                return self._catalog.find(self._name).paths == model.paths
            except ShimmyError:
                return False
        return self._file is None or means(self._file, model.paths)


def _whole(path: str | None) -> str | None:
    return os.path.abspath(os.path.expanduser(path)) if path else None


def _is_folder(path: str) -> bool:
    return os.path.isdir(os.path.expanduser(path))
