"""Hosts that want us to come again later."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import PullFailed
from shimmy.core.pulling import Progress
from shimmy.store.folder import Store
from shimmy.store.http import Cancelled
from shimmy.store.pull import Pull
from shimmy.store.waiting import MAX_SECONDS, seconds_to_wait
from tests.fakes.hub import Hub, noise
from tests.store.conftest import pull

SMALL = noise(100_000)


def said(**headers: str) -> float | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return seconds_to_wait(lambda name: named.get(name, ""))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "17"}, 17),
        ({"retry_after": " 0 "}, 0),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "1.5"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0),
        ({"retry_after": "Wed, 21 Oct 99999999999999999 07:28:30 GMT"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"pages";r=12;t=55, "resolvers";r=0;t=7'}, 7),
        ({"ratelimit": '"api";r=12;t=55'}, None),
        ({"retry_after": "3", "ratelimit": '"api";r=0;t=55'}, 3),
    ],
)
def test_what_headers_say(headers: dict[str, str], seconds: float | None) -> None:
    assert said(**headers) == seconds


def test_a_date_by_our_own_clock() -> None:
    found = said(retry_after=formatdate(time.time() + 100, usegmt=True))
    assert found is not None and 60 < found < 101


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_headers_say(retry_after: str, date: str) -> None:
    found = said(retry_after=retry_after, date=date)
    assert found is None or found >= 0


@pytest.fixture
def repository(hub: Hub) -> Hub:
    hub.repositories["org/tiny"] = {"tiny-q4_0.gguf": SMALL}
    return hub


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["origin", "files_origin"])
def test_the_wait_is_told_and_kept_to(repository: Hub, store: Store, whose: str) -> None:
    """By who lists the files, and by who has them."""
    host = getattr(repository, whose)
    repository.faults.refusals[host] = [(429, {"retry_after": "1"}), (503, {"retry_after": "0"})]
    began = time.monotonic()
    manifest, reported = pull(repository, store, "org/tiny")
    assert time.monotonic() - began >= 1
    assert manifest.size == len(SMALL)
    waits = [each for each in reported if each.status.startswith("waiting")]
    assert {each.status for each in waits} == {f"waiting 1 s: {host} answers with status 429"}
    assert {each.total for each in waits} == {None if whose == "origin" else len(SMALL)}


@pytest.mark.parametrize("whose", ["origin", "files_origin"])
def test_who_wants_to_be_left_alone_for_long(repository: Hub, store: Store, whose: str) -> None:
    host = getattr(repository, whose)
    repository.faults.refusals[host] = [(429, {"retry_after": str(int(MAX_SECONDS) + 1)})]
    with pytest.raises(PullFailed, match=f"{host} answers with status 429, and wants to be asked again in 301 s"):
        pull(repository, store, "org/tiny")


def test_a_wait_can_be_cancelled(repository: Hub, store: Store) -> None:
    repository.faults.refusals[repository.files_origin] = [(429, {"retry_after": "200"})]

    def report(progress: Progress) -> None:
        if progress.status.startswith("waiting"):
            one.cancel()

    one = Pull.from_environ(store, repository.environ, report)
    with pytest.raises(Cancelled):
        one.run("org/tiny")


def test_who_always_wants_us_to_wait_is_given_up(repository: Hub, store: Store) -> None:
    repository.faults.refusals[repository.files_origin] = [(503, {"retry_after": "0"})] * 6
    with pytest.raises(PullFailed, match="given up after 6 tries: .* status 503"):
        pull(repository, store, "org/tiny")
