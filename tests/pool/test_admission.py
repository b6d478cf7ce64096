import asyncio
from contextlib import ExitStack

import pytest

from shimmy.core.errors import Busy, Draining
from shimmy.pool.admission import Admission
from tests.fakes.pool import run


def test_a_full_house_refuses_until_someone_leaves() -> None:
    admission = Admission(2)
    with admission.admit(), ExitStack() as second:
        second.enter_context(admission.admit())
        assert admission.num_active == 2
        with pytest.raises(Busy) as refused, admission.admit():
            pass
        assert refused.value.details == {"retry_after_seconds": 1}
        second.close()
        with admission.admit():
            assert admission.num_active == 2
    assert admission.num_active == 0


def test_a_place_is_given_back_after_an_error() -> None:
    admission = Admission(1)
    with pytest.raises(KeyError), admission.admit():
        raise KeyError
    assert admission.num_active == 0


def test_a_tenant_that_takes_all_it_can_get_leaves_the_others_their_places() -> None:
    admission = Admission(12, num_tenants=3)
    with ExitStack() as places:

        def take(tenant: str) -> int:
            """How many it gets."""
            for count in range(99):
                try:
                    places.enter_context(admission.admit(tenant))
                except Busy as refused:
                    assert ("of this API key" in refused.message) is (admission.num_active < 12)
                    return count
            raise AssertionError("there is no end of them")

        assert [take("a"), take("b"), take("c"), take("a")] == [8, 2, 2, 0]
    with admission.admit("b"):
        assert admission.num_active == 1


def test_without_keys_all_places_are_everybody_s() -> None:
    admission = Admission(3)
    with admission.admit(), admission.admit(), admission.admit():
        with pytest.raises(Busy, match="^all places for requests are taken$"), admission.admit():
            pass


def test_draining_refuses_and_waits_for_those_inside() -> None:
    async def test() -> None:
        admission = Admission(2)
        with admission.admit():
            assert not await admission.drain(0)
            with pytest.raises(Draining), admission.admit():
                pass
            drained = asyncio.create_task(admission.drain(60))
            await asyncio.sleep(0)
            assert not drained.done()
        assert await drained

    run(test())


def test_an_empty_house_is_drained_at_once() -> None:
    assert run(Admission(1).drain(0))
