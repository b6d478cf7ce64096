"""Whole exchanges as they go over the wire, compared byte by byte with tests/golden; what differs each time is put into
capitals. REGENERATE=1 writes them anew.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.server.live import Live, run_live

_GOLDEN = Path(__file__).parents[1] / "golden"
# What differs in every protocol, as a pattern and what stands for it.
_COMMON = ((r"date: .*", "date: DATE"), (r"content-length: \d+", "content-length: LENGTH"))


def check(name: str, path: str, body: dict[str, Any], varying: Iterable[tuple[str, str]]) -> None:
    """Fails unless the answer is that of the transcript `name`; `varying` is what differs beside `_COMMON`."""

    async def test(server: Live) -> None:
        answer = await server.ask("POST", path, body)
        headers = "".join(f"{field}: {value}\n" for field, value in answer.headers.items())
        received = f"HTTP {answer.status}\n{headers}\n{answer.body.decode()}"
        for pattern, replacement in (*varying, *_COMMON):
            received = re.sub(pattern, replacement, received)
        transcript = f"POST {path}\n{json.dumps(body)}\n\n{received}"
        file = _GOLDEN / f"{name}.txt"
        if os.environ.get("REGENERATE"):
            file.write_text(transcript)
        assert transcript == file.read_text()

    run_live(test)


def names(protocol: str) -> set[str]:
    """Of the transcripts that there are."""
    return {path.stem for path in _GOLDEN.glob(f"{protocol}-*.txt")}
