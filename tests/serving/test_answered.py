from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("pydantic", reason="needs pydantic (pip install 'rewarddance[serve]')")

from diffusers_ext.serving.answered import Answered
from diffusers_ext.serving.bodies import BodyError


class Work:
    def __init__(self):
        self.count, self.go = 0, asyncio.Event()

    async def __call__(self):
        self.count += 1
        count = self.count
        await self.go.wait()
        return count


def test_a_request_that_comes_twice_is_worked_on_once():
    async def check():
        answered, work = Answered(), Work()
        calls = [asyncio.create_task(answered.once("a", b"1", work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.go.set()
        assert sorted(await asyncio.gather(*calls)) == [(1, False), (1, True), (1, True)]
        assert await answered.once("a", b"1", work) == (1, True)
        assert await answered.once("b", b"1", work) == (2, False)

    asyncio.run(check())


def test_work_goes_on_when_the_caller_goes_away():
    async def check():
        answered, work = Answered(), Work()
        call = asyncio.create_task(answered.once("a", b"1", work))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        work.go.set()
        assert await answered.once("a", b"1", work) == (1, True)

    asyncio.run(check())


def test_what_failed_is_worked_on_again():
    async def failing():
        raise OSError("gone")

    async def check():
        answered, work = Answered(), Work()
        work.go.set()
        with pytest.raises(OSError, match="gone"):
            await answered.once("a", b"1", failing)
        assert await answered.once("a", b"1", work) == (1, False)

    asyncio.run(check())


def test_a_name_that_was_used_for_something_else_is_refused():
    async def check():
        answered, work = Answered(), Work()
        work.go.set()
        await answered.once("a", b"1", work)
        with pytest.raises(BodyError, match="another request"):
            await answered.once("a", b"2", work)

    asyncio.run(check())


def test_only_the_latest_are_kept_and_none_that_is_under_way_is_forgotten():
    async def check():
        answered, slow, quick = Answered(3), Work(), Work()
        quick.go.set()
        waiting = asyncio.create_task(answered.once("slow", b"", slow))
        await asyncio.sleep(0)
        for name in "abcd":
            await answered.once(name, b"", quick)
        assert (await answered.once("d", b"", quick))[1]
        assert not (await answered.once("a", b"", quick))[1]
        slow.go.set()
        assert await waiting == (1, False)
        assert slow.count == 1

    asyncio.run(check())
