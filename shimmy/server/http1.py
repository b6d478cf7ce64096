"""What clients of HTTP/1 do, and h11 (0.16) answers with 400. Knows nothing but h11's readers: one for each state."""

from h11 import CLIENT, IDLE, MUST_CLOSE, Request
from h11._readers import READERS, maybe_read_from_IDLE_client
from h11._receivebuffer import ReceiveBuffer

_EMPTY_LINES = b"\r\n"


def _read_request(buffer: ReceiveBuffer) -> Request | None:
    """Empty lines before it are ignored (RFC 9112, section 2.2): some clients end a body with one."""
    data = buffer._data
    if data.startswith((b"\r", b"\n")):
        buffer.maybe_extract_at_most(len(data) - len(data.lstrip(_EMPTY_LINES)))
    return maybe_read_from_IDLE_client(buffer)


def _ignore(buffer: ReceiveBuffer) -> None:
    """After a request that is to be the connection's last (RFC 9112, section 9.6)."""
    buffer.maybe_extract_at_most(len(buffer))


def be_lenient() -> None:
    """For all connections of this process from now on."""
    READERS[CLIENT, IDLE] = _read_request
    READERS[CLIENT, MUST_CLOSE] = _ignore
