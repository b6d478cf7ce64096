"""For all tests: hypothesis without deadlines, because the machine may be busy with other things. `make test-fast`
takes the profile with fewest examples, `make fuzz` the one with most. And tests that start the program are marked
`program`."""

import os
from typing import Any

import hypothesis
import pytest

from tests import program

# How long examples take says nothing either.
PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("shimmy", max_examples=200, **PATIENT)
hypothesis.settings.register_profile("fast", max_examples=15, **PATIENT)
hypothesis.settings.register_profile("fuzz", max_examples=5000, **PATIENT)
# What nobody changed does not fail in CI: there each run tries the same examples. Everywhere else new ones are sought.
hypothesis.settings.register_profile("ci", max_examples=200, derandomize=True, database=None, **PATIENT)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "shimmy")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    program.is_marked = item.get_closest_marker("program") is not None
