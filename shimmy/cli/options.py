"""Flags that several subcommands share, and the kinds of value that flags take."""

import math
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.core.keys import ApiKey
    from shimmy.core.secret import Secret

_BIND = re.compile(r"(?:\[[^\[\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")
_UNIX_BIND = re.compile(r"unix:.+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/]+|\*", re.IGNORECASE)
_API_KEY = re.compile(r"[!-~]+")
_MAX_SECONDS = 86_400.0
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_KEY_BYTES = 32
# Where a settings file leaves its table and the settings without a flag, in the context of the command that runs.
ENGINE_TABLE = "shimmy.engine"
FLAGLESS = "shimmy.flagless"
# Name, variable, what a value looks like, help; each is checked as the field of `EngineSettings` with its name.
_ENGINE_OPTIONS = (
    ("gpu-layers", "SHIMMY_GPU_LAYERS", "NUMBER|all|auto", "Layers of a model that go to a GPU."),
    ("gpu-backend", "SHIMMY_GPU_BACKEND", "NAME", "Use the GPUs of this backend only, or cpu."),
    ("split-mode", "SHIMMY_SPLIT_MODE", "none|layer", "Use one GPU, or share layers out."),
    ("tensor-split", "SHIMMY_TENSOR_SPLIT", "PART,...", "How much each GPU gets."),
    ("main-gpu", "SHIMMY_MAIN_GPU", "NUMBER", "The only GPU to use, counted from 0."),
    ("n-cpu-moe", "SHIMMY_N_CPU_MOE", "NUMBER", "Keep the experts of the first layers on the CPU."),
    ("cache-type-k", "SHIMMY_CACHE_TYPE_K", "TYPE", "How keys are stored, such as f16 or q8_0."),
    ("cache-type-v", "SHIMMY_CACHE_TYPE_V", "TYPE", "How values are stored."),
    ("flash-attn", "SHIMMY_FLASH_ATTN", "auto|on|off", "Flash attention."),
)
ENGINE_FLAGS = (*(name for name, *_ in _ENGINE_OPTIONS), "device", "lora", "cpu-moe")
_ENGINE_FIELDS = tuple(name.replace("-", "_") for name in ENGINE_FLAGS)


def model_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """--model-path and --model-dirs, as `model_path` and `model_dirs`."""
    path = click.option(
        "--model-path",
        type=click.Path(exists=True),
        help="A GGUF file or SafeTensors folder to list before all others.",
    )
    dirs = click.option(
        "--model-dirs",
        multiple=True,
        metavar="DIR[;DIR...]",
        callback=_folders,
        help="Folders to search before the usual ones; may be repeated.",
    )
    return path(dirs(function))


class _Whole(click.ParamType[str]):
    """A path in a variable may have spaces."""

    name = "file"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv] if rv else []


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags and --config; `function` gets `engine`, None where nothing of it is set."""

    @wraps(function)
    def gathered(**flags: Any) -> Any:
        given = {name: flags.pop(name) for name in _ENGINE_FIELDS}
        given = {name: value for name, value in given.items() if value not in (None, (), False)}
        table = click.get_current_context().meta.get(ENGINE_TABLE)
        return function(**flags, engine=_engine(table, given) if given or table else None)

    for name, variable, metavar, text in reversed(_ENGINE_OPTIONS):
        gathered = click.option(f"--{name}", metavar=metavar, envvar=variable, help=text)(gathered)
    several: dict[str, Any] = {"multiple": True, "metavar": "NAME", "envvar": "SHIMMY_DEVICE"}
    gathered = click.option("--device", **several, help="A GPU for them, as gpu-info calls it.")(gathered)
    text = "Keep the experts of all layers on the CPU."
    gathered = click.option("--cpu-moe", is_flag=True, default=None, envvar="SHIMMY_CPU_MOE", help=text)(gathered)
    several = {"multiple": True, "metavar": "FILE[=SCALE]", "envvar": "SHIMMY_LORA_GGUF", "type": _Whole()}
    return _config(click.option("--lora", **several, help="A LoRA adapter for the model.")(gathered))


def _engine(table: dict[str, Any] | None, given: dict[str, Any]) -> "EngineSettings":
    from shimmy.cli.engine_options import engine_settings

    return engine_settings(table, given)


def _config(function: Callable[..., Any]) -> Callable[..., Any]:
    """--config, which leaves no parameter: its values become defaults of other flags, or are kept in the context."""

    def apply(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
        if path is not None:
            from shimmy.cli.config import apply

            apply(ctx, path)

    about: dict[str, Any] = {"metavar": "FILE", "envvar": "SHIMMY_CONFIG", "help": "Settings in a file (TOML)."}
    return click.option("--config", **about, is_eager=True, expose_value=False, callback=apply)(function)


def kv_cache(function: Callable[..., Any]) -> Callable[..., Any]:
    """--kv-cache and --kv-cache-key-file, as `kv_cache_bytes` and `kv_cache_key`."""
    size = click.option(
        "--kv-cache",
        "kv_cache_bytes",
        type=disk_size,
        default="0",
        metavar="SIZE",
        envvar="SHIMMY_KV_CACHE",
        help="For computed prompts, on disk.",
    )
    key = click.option(
        "--kv-cache-key-file",
        "kv_cache_key",
        type=key_file,
        metavar="FILE",
        envvar="SHIMMY_KV_CACHE_KEY_FILE",
        help="A key to encrypt them with.",
    )

    @wraps(function)
    def guarded(**flags: Any) -> Any:
        if flags["kv_cache_key"] and not flags["kv_cache_bytes"]:
            raise click.UsageError("--kv-cache-key-file needs --kv-cache.")
        return function(**flags)

    return size(key(guarded))


def _folders(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    folders = [folder.strip() for value in values for folder in value.split(";") if folder.strip()]
    for folder in folders:
        if not os.path.isdir(os.path.expanduser(folder)):
            raise click.BadParameter(f"there is no folder {folder!r}.", ctx, param)
    return tuple(folders)


def bind(value: str) -> str:
    match = _BIND.fullmatch(value)
    if _UNIX_BIND.fullmatch(value):
        return text(value)
    if value != "auto" and not (match and int(match["port"]) < 1 << 16):
        raise click.BadParameter(
            f"{value!r} is neither HOST:PORT, with an IPv6 host in brackets, nor unix:PATH, nor auto."
        )
    return value


def access(function: Callable[..., Any]) -> Callable[..., Any]:
    """Who may come in, and how: the flags of keys, pages, TLS and connections."""
    flags = [
        click.option("--api-key", "api_keys", type=api_key, multiple=True, metavar="KEY", envvar="SHIMMY_API_KEY",
                     help="To be let in."),
        click.option("--api-keys-file", type=text, metavar="FILE", envvar="SHIMMY_API_KEYS_FILE",
                     help="More keys, and what each may do."),
        click.option("--insecure-no-auth", is_flag=True, default=None, help="Let other machines in without a key."),
        click.option("--cors-origin", "cors_origins", type=origin, multiple=True, metavar="ORIGIN",
                     envvar="SHIMMY_CORS_ORIGIN", help="Pages that may use the server; may be repeated."),
        click.option("--tls-cert", type=text, metavar="FILE", envvar="SHIMMY_TLS_CERT", help="PEM, to speak TLS."),
        click.option("--tls-key", type=text, metavar="FILE", envvar="SHIMMY_TLS_KEY", help="PEM, its key."),
        click.option("--max-connections", type=click.IntRange(1, 1_000_000), metavar="NUMBER",
                     envvar="SHIMMY_MAX_CONNECTIONS", help="Open at a time."),
    ]  # fmt: skip
    for flag in reversed(flags):
        function = flag(function)
    return function


def residence(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which models stay in memory, how long, and in how many processes."""
    flags = [
        click.option("--pin", "pinned", multiple=True, metavar="NAME", envvar="SHIMMY_PIN",
                     help="Load this model at the start and keep it."),
        click.option("--memory-budget", "memory_budget_bytes", type=size, metavar="SIZE",
                     envvar="SHIMMY_MEMORY_BUDGET", help="For all models together."),
        click.option("--keep-alive", "keep_alive_seconds", type=duration, metavar="DURATION",
                     envvar="SHIMMY_KEEP_ALIVE", help="How long models stay that nobody uses."),
        click.option("--workers", "num_workers", type=click.IntRange(1, 64), metavar="NUMBER",
                     envvar="SHIMMY_WORKERS", help="Processes of each model."),
    ]  # fmt: skip
    for flag in reversed(flags):
        function = flag(function)
    return function


def origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not SCHEME://HOST[:PORT] as a browser sends it, nor *.")
    return value


def api_key(value: str) -> "ApiKey":
    if not _API_KEY.fullmatch(value):
        # The value is not repeated: it is a secret.
        raise click.BadParameter("a key consists of visible ASCII characters, without spaces.")
    from shimmy.core.keys import ApiKey

    return ApiKey.of(value)


def text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("it is not valid UTF-8.") from error
    return value


def megabytes(value: str) -> int:
    """In bytes."""
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is no number of megabytes.")
    return int(value) << 20


def size(value: str) -> int:
    """In bytes; 2G is 2 << 30."""
    match = _SIZE.fullmatch(value)
    if not match:
        raise click.BadParameter(f"{value!r} is no size such as 512M or 2G.")
    return int(float(match[1]) * 1024 ** "_kmgt".index(match[2].lower() or "_"))


def disk_size(value: str) -> int:
    num_bytes = size(value)
    if num_bytes and sys.platform == "win32":
        raise click.BadParameter("there is no cache on disk on Windows yet.")
    return num_bytes


def duration(value: str) -> float:
    """In seconds; what is negative is for ever."""
    from shimmy.core.durations import keep_alive_seconds
    from shimmy.core.errors import RequestError

    try:
        seconds = keep_alive_seconds(value, "")
    except RequestError:
        raise click.BadParameter(f"{value!r} is no duration, such as 5m or 300.") from None
    return math.inf if seconds is None else seconds


def key_file(path: str) -> "Secret":
    """A key as it is, or in base64. What is in the file is not repeated: it is a secret."""
    import base64
    import binascii

    from shimmy.core.secret import Secret

    try:
        with open(path, "rb") as file:
            content = file.read(1024)
            is_exposed = hasattr(os, "geteuid") and os.fstat(file.fileno()).st_mode & 0o077
    except OSError as error:
        raise click.BadParameter(f"{path!r}: {error.strerror}.") from error
    try:
        key = content if len(content) == _KEY_BYTES else base64.b64decode(content.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        needed = f"{_KEY_BYTES} bytes, as they are or in base64 (openssl rand -base64 {_KEY_BYTES})"
        raise click.BadParameter(f"{path!r} does not hold a key of {needed}.")
    if is_exposed:
        click.echo(f"shimmy: WARNING: others may read the key in {path}", err=True)
    return Secret(key)


def seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MAX_SECONDS:
        raise click.BadParameter(f"{value!r} is no number of seconds from 0 to {_MAX_SECONDS:g}.")
    return number


def checked(type_name: str) -> Callable[[str], Any]:
    """A number in the range that shimmy.core.request sets for every protocol, found there by the name of its type."""

    def convert(value: str) -> Any:
        import msgspec

        from shimmy.core import request

        try:
            return msgspec.convert(value, getattr(request, type_name), strict=False)
        except msgspec.ValidationError as error:
            raise click.BadParameter(f"{value!r}: {error}.") from error

    return convert
