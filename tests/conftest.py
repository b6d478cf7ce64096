"""For all tests: hypothesis without deadlines, because the machine may be busy with other things. `make test-fast`
takes the profile with fewest examples, `make fuzz` the one with most. And tests that start the program are marked
`program`."""

import os

import hypothesis
import pytest

from tests import program

hypothesis.settings.register_profile("shimmy", deadline=None, max_examples=200)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=15)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=5000)
# What nobody changed does not fail in CI: there each run tries the same examples. Everywhere else new ones are sought.
hypothesis.settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "shimmy")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    program.is_marked = item.get_closest_marker("program") is not None
