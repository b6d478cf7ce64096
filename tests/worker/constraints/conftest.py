"""Here no constraint is given up because the machine does something else meanwhile: what holds are the limits of what
it may become."""

from collections.abc import Iterator

import pytest

from shimmy.worker.constraints import compile


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compile, "COMPILE_SECONDS", 60.0)
        yield
