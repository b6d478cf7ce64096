"""Loads a model, and imports what will serve it while llama.cpp reads the file, which needs no interpreter.

What is imported at the top of this module is all that a load needs.
"""

import importlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shimmy.core.errors import ModelInvalid
from shimmy.core.startup import WARNING_MARK, EngineOptions
from shimmy.worker.llama import backend
from shimmy.worker.llama.model import ON_THE_CPU, Model, Offload

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.worker.adapters import Adapters
    from shimmy.worker.disk.identity import Stamp
    from shimmy.worker.encoder import EncoderEngine
    from shimmy.worker.engine import Engine

_HEAD_START_SECONDS = 0.002
# Of the time that it takes to convert a model and to load it.
_CONVERSION_SHARE = 0.9


def load(
    paths: list[str],
    options: EngineOptions,
    on_progress: Callable[[float], None],
    on_open: Callable[[str], None] = lambda path: None,
) -> "Engine | EncoderEngine":
    """`on_progress` gets the fraction read, `on_open` the path of each optional backend before it is opened.

    Raises `ModelInvalid`, `ModelFailed`, or `OSError` for a native library that cannot be opened.
    """
    paths, on_progress = _as_gguf(paths, on_progress)
    cpu_variant = backend.start()
    settings = _settings(options)
    offload = _offload(settings, on_open)
    importing = threading.Thread(target=_import_engine, daemon=True)
    importing.start()
    files = _observed(paths, options)
    model = _load_model(paths, on_progress, offload, settings)
    importing.join()
    _mark_warnings()
    if model.is_encoder:
        from shimmy.worker.encoder import EncoderEngine

        return EncoderEngine(model, cpu_variant, options)
    from shimmy.worker.engine import Engine

    adapters = _load_adapters(options, paths, model) if options.adapters else None
    draft = _load_draft(options, offload, model, settings) if options.draft_paths else None
    return Engine(model, cpu_variant, options, files, draft, settings, adapters, paths)


def load_engine(paths: list[str], options: EngineOptions, on_progress: Callable[[float], None]) -> "Engine":
    """The same for who wants text. Raises `ModelInvalid` for an encoder as well."""
    from shimmy.worker.engine import Engine

    engine = load(paths, options, on_progress)
    if not isinstance(engine, Engine):
        raise ModelInvalid("the model is an encoder and generates no text")
    return engine


def _load_model(
    paths: list[str], on_progress: Callable[[float], None], offload: Offload, settings: "EngineSettings | None"
) -> Model:
    if settings is None or not settings.mlock:
        return Model(paths, on_progress, offload, settings)
    said: list[str] = []
    with backend.listening(said.append):
        model = Model(paths, on_progress, offload, settings)
    if any("failed to mlock" in text for text in said):
        import logging

        _mark_warnings()
        logging.getLogger("shimmy.worker").warning("mlock: the system does not let this user lock so much memory")
    return model


def _as_gguf(paths: list[str], on_progress: Callable[[float], None]) -> tuple[list[str], Callable[[float], None]]:
    """A checkpoint in SafeTensors is converted first, if it was not before. Then that is most of the progress."""
    if not paths[0].endswith(".safetensors"):
        return paths, on_progress
    from shimmy.worker.converted import converted

    done = 0.0

    def on_written(fraction: float) -> None:
        nonlocal done
        done = _CONVERSION_SHARE
        on_progress(fraction * done)

    path = converted(paths, on_written)
    return [path], lambda fraction: on_progress(done + (1 - done) * fraction)


def _load_adapters(options: EngineOptions, paths: list[str], model: Model) -> "Adapters":
    from shimmy.worker.llama.adapters import load_adapters

    return load_adapters(options.adapters, paths, model, with_digests=options.disk_cache is not None)


def _load_draft(options: EngineOptions, offload: Offload, target: Model, settings: "EngineSettings | None") -> Model:
    from shimmy.worker.drafting.model import check_draft_model

    try:
        own = None if settings is None else settings.for_draft()
        paths, _ = _as_gguf(list(options.draft_paths), lambda fraction: None)
        draft = Model(paths, lambda fraction: None, offload, own)
    except ModelInvalid as error:
        raise ModelInvalid(f"the draft model cannot be loaded: {error.message}") from error
    check_draft_model(target, draft)
    return draft


def _mark_warnings() -> None:
    """In a worker, nothing else is logged to stderr than warnings and errors."""
    import logging

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter(f"{WARNING_MARK}%(message)s"))


def _import_engine() -> None:
    # Until the load is in llama.cpp, the two threads would only take turns.
    time.sleep(_HEAD_START_SECONDS)
    importlib.import_module("shimmy.worker.engine")


def _observed(paths: list[str], options: EngineOptions) -> "dict[str, Stamp] | None":
    """None without a disk tier, and where llama.cpp will say what is wrong with the files."""
    if options.disk_cache is None:
        return None
    from shimmy.worker.disk.identity import observe

    try:
        return observe(paths)
    except OSError:
        return None


def _settings(options: EngineOptions) -> "EngineSettings | None":
    if not options.settings:
        return None
    import msgspec

    from shimmy.core.engine_settings import EngineSettings

    return msgspec.msgpack.decode(options.settings, type=EngineSettings)


def _offload(settings: "EngineSettings | None", on_open: Callable[[str], None]) -> Offload:
    """Nothing of optional backends is even imported unless they were asked for."""
    if settings is None or not settings.num_gpu_layers:
        return ON_THE_CPU
    from shimmy.worker.llama.devices import offload

    return offload(settings, on_open)
