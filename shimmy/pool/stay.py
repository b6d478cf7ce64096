"""How long a loaded model stays: until nobody has used it for so long, or until another one needs its memory."""

from enum import IntEnum
from math import inf
from typing import Literal

import msgspec

PriorityName = Literal["low", "normal", "high"]


class Priority(IntEnum):
    """Those of a lower one leave before any of a higher one."""

    LOW = -1
    NORMAL = 0
    HIGH = 1


class Stay(msgspec.Struct):
    """Of one model, whichever of its versions is loaded. `keep_alive_seconds` count from the end of its last request
    (`inf` for ever); one that is `pinned` leaves only when somebody unloads it."""

    keep_alive_seconds: float = inf
    priority: Priority = Priority.NORMAL
    pinned: bool = False
