"""Where the server listens: the socket is bound and listening before anything else happens, so that no one can take its
port in between, and early clients wait instead of being refused."""

import errno
import socket
import sys

import msgspec

from shimmy.core.settings import DEFAULT_HOST, DEFAULT_PORT, LAST_AUTO_PORT, Settings

EXIT_USAGE = 2
EXIT_CANNOT_BIND = 4

BACKLOG = 1024
# What the kernel may hold beyond what is on its way: more would hide a slow reader from us.
_UNSENT_BYTES = 64 << 10


class StartError(Exception):
    """The server cannot start; `exit_code` is the process's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Listener(msgspec.Struct, frozen=True):
    """A listening socket; `host` is what was asked for, `address` the IP address it is bound to."""

    host: str
    address: str
    port: int
    fd: int

    @property
    def url(self) -> str:
        """One that works from this machine."""
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)
        return f"http://[{address}]:{self.port}" if ":" in address else f"http://{address}:{self.port}"


def listen(settings: Settings) -> Listener:
    """Raises `StartError`."""
    host, ports = _parse(settings.bind)
    family, address = _resolve(host)
    if not is_loopback(address) and not settings.api_keys and not settings.insecure_no_auth:
        raise StartError(
            f"{host} can be reached from other machines: set an API key with --api-key, "
            "or allow everyone with --insecure-no-auth",
            EXIT_USAGE,
        )
    for port in ports:
        if (bound := _bind(family, address, port)) is not None:
            return Listener(host, address, bound.getsockname()[1], bound.detach())
    which = f"port {ports[0]} of {host} is" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]} of {host} are"
    raise StartError(f"{which} in use; --bind auto takes the next free port, --bind {host}:0 any", EXIT_CANNOT_BIND)


def is_loopback(address: str) -> bool:
    """Whether an IP address, in its usual form, is reached from this machine only."""
    return address == "::1" or address.startswith("127.")


def _parse(bind: str) -> tuple[str, range]:
    """The host and the ports to try."""
    if bind == "auto":
        return DEFAULT_HOST, range(DEFAULT_PORT, LAST_AUTO_PORT + 1)
    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise StartError(f"{bind!r} is not HOST:PORT or auto", EXIT_USAGE)
    return host, range(int(port), int(port) + 1)


def _resolve(host: str) -> tuple[socket.AddressFamily, str]:
    # As bytes it need not be encoded as a name of many scripts, for which Python loads tables.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise StartError(f"{host!r} is no address of this machine: {error}", EXIT_CANNOT_BIND) from None
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
        raise StartError(f"cannot listen on {address}:{port}: {error.strerror}", EXIT_CANNOT_BIND) from None
    return listener
