"""A TLS connection that is as dead when hardly anything comes as when nothing does: a byte now and then would keep a
pull waiting for ever. It knows neither what is sent nor by whom.
"""

import ssl
import time
from typing import Any

# Within the socket's timeout.
LEAST_BYTES = 16 << 10


class PacedSocket(ssl.SSLSocket):
    """Counts the time in which it waits for bytes, not that in which nobody asks for any."""

    _waited_seconds = 0.0
    _num_came = 0

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Raises `TimeoutError`."""
        began = time.monotonic()
        count = super().recv_into(buffer, nbytes, flags)
        self._waited_seconds += time.monotonic() - began
        self._num_came += count
        timeout = self.gettimeout()
        if timeout is not None and self._waited_seconds > timeout:
            if self._num_came < LEAST_BYTES:
                raise TimeoutError(f"{self._num_came} bytes in {self._waited_seconds:.1f} s")
            self._waited_seconds, self._num_came = 0.0, 0
        return count
