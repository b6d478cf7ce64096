"""How far a pull is: what `pull --json` prints, line by line, and the server reads."""

import msgspec

from shimmy.core.errors import Fault

SUCCESS = "success"
FAILED = "failed"


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """With a digest, how many bytes of how many there are of that blob. The last status is `SUCCESS`, or `FAILED` with
    the error."""

    status: str
    digest: str | None = None
    file: str | None = None
    total: int | None = None
    completed: int | None = None
    error: Fault | None = None

    @property
    def is_last(self) -> bool:
        return self.status in (SUCCESS, FAILED)
