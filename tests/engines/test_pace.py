"""Rate limits with a clock of our own: what a provider that counts requests and tokens would see."""

import asyncio
import heapq
import random

import pytest

from surgr1.engines.pace import Pace


class Time:
    """A clock that only sleeping moves: whoever is due first wakes first."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future]] = []
        self._count = 0

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, self._count, future))
        await future

    async def run(self, *tasks) -> None:
        running = [asyncio.ensure_future(t) for t in tasks]
        while True:
            for _ in range(50):
                await asyncio.sleep(0)
            if all(t.done() for t in running):
                break
            self.now, _, future = heapq.heappop(self._sleepers)
            future.set_result(None)
        for task in running:
            task.result()


def admissions(count: int, tokens: int = 0, hold=(), **limits) -> list[float]:
    """When each of `count` requests that all come at once is admitted, in seconds from the start. `hold`:
    (after so many admissions, seconds for which everybody is told to wait).
    """
    time, found = Time(), []
    pace = Pace(clock=lambda: time.now, sleep=time.sleep, jitter=random.Random(0).random, **limits)

    async def one() -> None:
        start = time.now
        waited = await pace.admit(tokens)
        assert waited == pytest.approx(time.now - start)
        found.append(time.now - 1000)
        for after, seconds in hold:
            if len(found) == after:
                pace.hold(seconds)

    asyncio.run(time.run(*(one() for _ in range(count))))
    return sorted(found)


def most_in(found: list[float], seconds: float) -> int:
    """The most admissions in any span of this length."""
    return max(sum(a <= b < a + seconds for b in found) for a in found)


def test_without_limits_nobody_waits() -> None:
    assert admissions(500, tokens=10**6) == [0.0] * 500


@pytest.mark.parametrize("limit", [6, 60, 600, 1500])
def test_no_minute_sees_more_requests_than_the_limit_and_a_burst(limit) -> None:
    """The burst is one second's worth, one request at least."""
    found = admissions(2 * limit, requests_per_minute=limit)
    assert most_in(found, 60) <= limit + max(1, limit / 60) + 1
    assert found[-1] == pytest.approx(120, abs=2 + 120 / limit), "and the limit is used"


def test_no_minute_sees_more_tokens_than_the_limit_and_a_burst() -> None:
    found = admissions(400, tokens=1500, tokens_per_minute=300_000)
    assert most_in(found, 60) * 1500 <= 300_000 + 300_000 / 60 + 1500
    assert found[-1] == pytest.approx(120, abs=3)


def test_the_tighter_of_two_limits_holds() -> None:
    assert admissions(50, tokens=100, requests_per_minute=60, tokens_per_minute=10**6)[-1] > 45
    assert admissions(50, tokens=100, requests_per_minute=10**6, tokens_per_minute=6000)[-1] > 45


def test_a_request_larger_than_a_minutes_tokens_goes_all_the_same() -> None:
    found = admissions(3, tokens=2000, tokens_per_minute=1000)
    assert found[0] == 0 and found[-1] == pytest.approx(240, abs=2)


def test_one_that_is_told_to_wait_lets_everybody_wait() -> None:
    """Also those that were about to go; and afterwards they do not come all at once."""
    found = admissions(100, requests_per_minute=600, hold=[(20, 30.0)])
    assert found[19] < 2 and 30 <= found[20] - found[19] <= 33
    assert most_in(found[20:], 1) <= 12
    first, second = admissions(2, hold=[(1, 30.0)])
    assert first == 0 and 30 <= second <= 33, "also where there is no rate"


def test_those_held_without_a_rate_come_back_spread() -> None:
    time = Time()
    pace = Pace(clock=lambda: time.now, sleep=time.sleep, jitter=random.Random(0).random)
    pace.hold(10)
    back: list[float] = []

    async def one() -> None:
        await pace.admit(0)
        back.append(time.now - 1000)

    asyncio.run(time.run(*(one() for _ in range(40))))
    assert len(set(back)) == 40 and min(back) >= 10 and max(back) <= 11


def test_a_second_shorter_wait_does_not_shorten_the_first() -> None:
    time = Time()
    pace = Pace(clock=lambda: time.now, sleep=time.sleep, jitter=lambda: 0.0)
    pace.hold(10)
    pace.hold(1)
    asyncio.run(time.run(pace.admit(0)))
    assert time.now == 1010


def test_a_longer_wait_that_comes_while_waiting_counts() -> None:
    time = Time()
    pace = Pace(clock=lambda: time.now, sleep=time.sleep, jitter=lambda: 0.0)

    async def later() -> None:
        await time.sleep(9)
        pace.hold(20)

    pace.hold(10)
    asyncio.run(time.run(pace.admit(0), later()))
    assert time.now == 1029


def test_a_pace_serves_one_event_loop_after_the_other() -> None:
    """An engine starts one for each call of `generate`."""
    time = Time()
    pace = Pace(clock=lambda: time.now, sleep=time.sleep, requests_per_minute=60)
    for _ in range(3):
        asyncio.run(time.run(*(pace.admit(0) for _ in range(5))))
    assert time.now - 1000 == pytest.approx(13, abs=1)


def test_a_negative_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Pace(requests_per_minute=-1)
