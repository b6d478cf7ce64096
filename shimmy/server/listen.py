"""Where the server listens: the socket is bound and listening before anything else happens, so that no one can take its
port in between, and early clients wait instead of being refused."""

import errno
import os
import re
import socket
import stat
import sys
from contextlib import suppress

import msgspec

from shimmy.core.exit_codes import CANNOT_BIND, USAGE
from shimmy.core.settings import DEFAULT_HOST, DEFAULT_PORT, LAST_AUTO_PORT, Settings

BACKLOG = 1024
# What the kernel may hold beyond what is on its way: more would hide a slow reader from us.
_UNSENT_BYTES = 64 << 10


_UNIX = "unix:"
_UNIX_BIND = re.compile(r"unix:(?P<path>.+?)(?:,mode=(?P<mode>[0-7]{3}))?")
_OWNER_ONLY = "600"


class StartError(Exception):
    """The server cannot start; `exit_code` is the process's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Listener(msgspec.Struct, frozen=True):
    """A listening socket; `host` is what was asked for, `address` the IP address it is bound to. For a UNIX socket both
    are "unix:" and its path, and there is no port; `identity` tells whether the path still leads to it."""

    host: str
    address: str
    port: int
    fd: int
    scheme: str = "http"
    identity: tuple[int, int] = (0, 0)

    @property
    def url(self) -> str:
        """One that works from this machine."""
        if is_unix(self.address):
            return self.address
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)
        name = f"[{address}]" if ":" in address else address
        return f"{self.scheme}://{name}:{self.port}"

    @property
    def path(self) -> str:
        """Of a UNIX socket."""
        return self.address.removeprefix(_UNIX)

    def remove(self) -> None:
        """Take the path of a UNIX socket away, unless it leads to another one by now."""
        with suppress(OSError):
            if is_unix(self.address) and _identity(self.path) == self.identity:
                os.unlink(self.path)


def listen(settings: Settings) -> Listener:
    """Raises `StartError`."""
    scheme = "https" if settings.tls_cert else "http"
    if is_unix(settings.bind):
        return _listen_unix(settings.bind, scheme)
    host, ports = _parse(settings.bind)
    family, address = _resolve(host)
    is_open = not (settings.api_keys or settings.api_keys_file)
    if not is_loopback(address) and is_open and not settings.insecure_no_auth:
        raise StartError(
            f"{host} can be reached from other machines: set an API key with --api-key, "
            "or allow everyone with --insecure-no-auth",
            USAGE,
        )
    for port in ports:
        if (bound := _bind(family, address, port)) is not None:
            return Listener(host, address, bound.getsockname()[1], bound.detach(), scheme)
    which = f"port {ports[0]} of {host} is" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]} of {host} are"
    raise StartError(f"{which} in use; --bind auto takes the next free port, --bind {host}:0 any", CANNOT_BIND)


def is_loopback(address: str) -> bool:
    """Whether an IP address, in its usual form, is reached from this machine only."""
    return address == "::1" or address.startswith("127.")


def is_unix(address: str) -> bool:
    return address.startswith(_UNIX)


def _parse(bind: str) -> tuple[str, range]:
    """The host and the ports to try."""
    if bind == "auto":
        return DEFAULT_HOST, range(DEFAULT_PORT, LAST_AUTO_PORT + 1)
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise StartError(f"{bind!r} is not HOST:PORT, unix:PATH or auto", USAGE)
    return host, range(int(port), int(port) + 1)


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    # As bytes it need not be encoded as a name of many scripts, for which Python loads tables.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StartError(f"{host!r} is no address of this machine: {error}", CANNOT_BIND) from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, str(address[0])


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket | None:
    """None when the port is taken."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Elsewhere it means a port whose last owner has left; on Windows, one whose owner still has it.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise StartError(f"cannot listen on {address}:{port}: {error.strerror}", CANNOT_BIND) from None
    return listener


def _listen_unix(bind: str, scheme: str) -> Listener:
    """Who may connect is a matter of the file's mode."""
    match = _UNIX_BIND.fullmatch(bind)
    if match is None or not hasattr(socket, "AF_UNIX"):
        raise StartError(f"{bind!r} is not unix:PATH or unix:PATH,mode=660, or this system has none", USAGE)
    path, mode = match["path"], int(match["mode"] or _OWNER_ONLY, 8)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.listen(BACKLOG)
        identity = _identity(path)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {path}: {error.strerror or error}", CANNOT_BIND) from None
    except StartError:
        listener.close()
        raise
    finally:
        os.umask(before)
    address = f"{_UNIX}{path}"
    return Listener(address, address, 0, listener.detach(), scheme, identity)


def _identity(path: str) -> tuple[int, int]:
    """The number of a file alone would do, were it not given to the next one at once."""
    status = os.lstat(path)
    return status.st_ino, status.st_mtime_ns


def _remove_stale(path: str) -> None:
    """Only what is a socket, and nobody listens on it any more. Raises `StartError`, or `OSError`."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise StartError(f"cannot listen on {path}: there is something else than a socket", CANNOT_BIND)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return os.unlink(path)
    raise StartError(f"{path} is in use by another server", CANNOT_BIND)
