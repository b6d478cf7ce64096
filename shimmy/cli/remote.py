"""A server that runs already, asked over its HTTP API."""

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click

from shimmy.cli.options import text

_SECONDS = 600.0


def remote(function: Callable[..., Any]) -> Callable[..., Any]:
    """--url and --api-key, as `url` and `api_key`."""
    url = click.option("--url", type=text, metavar="URL", envvar="SHIMMY_URL", help="Where the server answers.")
    key = click.option("--api-key", type=text, metavar="KEY", envvar="SHIMMY_API_KEY", help="To be let in.")
    return url(key(function))


def ask(method: str, path: str, url: str | None, api_key: str | None) -> Any:
    """The JSON that is answered. Raises `Unavailable` where nobody does, and the error that the server tells."""
    import http.client

    import msgspec

    from shimmy.core.errors import ShimmyError, Unavailable

    place = url or _place(os.environ)
    # The variable may have several.
    headers = {"authorization": f"Bearer {api_key.split()[0]}"} if api_key and api_key.strip() else {}
    try:
        connection = _connection(place)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unavailable(f"no server answers at {place} ({reason}); --url says where one does") from error
    try:
        said = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise ShimmyError(f"what answers at {place} is no Shimmy") from error
    if answer.status >= 400:
        raise _error(said, answer.status)
    return said


def _place(environ: Any) -> str:
    """That of the server whose settings are in the environment, or else where it is by default."""
    import msgspec

    from shimmy.core.settings import Settings

    try:
        with open(environ["SHIMMY_READY_FILE"], "rb") as file:
            return str(msgspec.json.decode(file.read())["url"])
    except (KeyError, OSError, TypeError, msgspec.DecodeError):
        pass
    bind = environ.get("SHIMMY_BIND") or Settings().bind
    if bind.startswith("unix:"):
        return str(bind)
    return f"http://{Settings().bind if bind == 'auto' else bind}"


def _connection(place: str) -> Any:
    from http.client import HTTPConnection, HTTPSConnection

    if place.startswith("unix:"):
        return _unix_connection(place.removeprefix("unix:"))
    parts = urlsplit(place if "//" in place else f"http://{place}")
    try:
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=_SECONDS)
    except ValueError as error:
        raise click.BadParameter(f"{place!r} is no URL: {error}.") from error


def _unix_connection(path: str) -> Any:
    import socket
    from http.client import HTTPConnection

    connection = HTTPConnection("localhost", timeout=_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _error(said: Any, status: int) -> Exception:
    from shimmy.core.errors import Fault, ShimmyError, from_fault

    match said:
        case {"error": str(message), "code": str(code)}:
            return from_fault(Fault(code, message))
    return ShimmyError(f"the server answers with status {status}")
