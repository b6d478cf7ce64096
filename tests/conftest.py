"""For all tests: hypothesis without deadlines, because the machine may be busy with other things. `make test-fast`
takes the profile with fewer examples. And tests that start the program are marked `program`."""

import hypothesis
import pytest

from tests import program

hypothesis.settings.register_profile("shimmy", deadline=None, max_examples=200)
hypothesis.settings.register_profile("fast", deadline=None, max_examples=15)
hypothesis.settings.load_profile("shimmy")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    program.is_marked = item.get_closest_marker("program") is not None
