"""The file that a subcommand is to write: what must hold of it before anything is begun."""

import os

import click


def check_target(source: str, target: str, force: bool) -> None:
    """Raises `click.BadParameter`."""
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise click.BadParameter(f"there is no folder {folder!r}.", param_hint="OUT")
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("its path is not valid UTF-8.", param_hint="OUT") from error
    if os.path.exists(target) and os.path.samefile(source, target):
        raise click.BadParameter("it is the same file as IN.", param_hint="OUT")
    if os.path.lexists(target) and not force:
        raise click.BadParameter(f"{target!r} exists; --force replaces it.", param_hint="OUT")


def partial_beside(place: str) -> str:
    """What the unfinished file is called where it must have a name."""
    return os.path.join(os.path.dirname(place), f".{os.path.basename(place)}.{os.getpid()}.partial")
