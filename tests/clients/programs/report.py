"""What a client's script is asked (`task`), and how it tells what its client gave: one JSON object on stdout.

Stands beside the script in the client's own environment, so it imports the standard library alone.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

task: dict[str, Any] = json.loads(Path(__file__).with_name("task.json").read_text())


def report(version: str, calls: dict[str, Callable[[], Any]], absent: dict[str, str]) -> None:
    """`calls` by the feature that each shows; `absent` is why the client has none of the others."""
    features: dict[str, Any] = {}
    out = os.dup(1)
    # What a client prints goes to stderr: stdout is the report alone.
    os.dup2(2, 1)
    for name, call in calls.items():
        try:
            features[name] = {"gave": call()}
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            features[name] = {"raised": f"{type(error).__name__}: {error}"[:500]}
    with os.fdopen(out, "w") as stdout:
        json.dump({"version": version, "features": features, "absent": absent}, stdout)


def raised(call: Callable[[], Any]) -> dict[str, Any]:
    """What the client made of an error: its class, and the status if it has one."""
    try:
        gave = call()
    except Exception as error:
        status = getattr(error, "status_code", None)
        return {"class": type(error).__name__, "status": status, "message": str(error)[:300]}
    raise AssertionError(f"no error, but {gave!r}"[:300])
