"""Rate limits of a provider, kept from our side: requests and tokens per minute, and a pause for everybody
when one request is told to wait.

Providers count a request's tokens when it arrives: its text and pictures, and all it may answer
(`max_tokens`, not what it does answer), so an answer's end gives nothing back. They also cut the minute into
shorter spans; therefore admissions are spread evenly, with at most one second's worth at once.
"""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable

_BURST = 1.0
"""Seconds of unused rate that may be used at once."""

_SPREAD = 0.1
"""Share of a pause over which those who waited come back where no rate spreads them, lest they all come at
once.
"""


class Pace:
    """Admits requests one by one. 0 is no limit. Safe from several threads and event loops, which then share
    the limits.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if requests_per_minute < 0 or tokens_per_minute < 0:
            raise ValueError("a rate per minute is 0 (no limit) or positive")
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._lock = threading.Lock()
        # When the next request, the next tokens may go; -inf: nothing has gone yet.
        self._request_at = self._token_at = float("-inf")
        self._held_until, self._pause, self._epoch = float("-inf"), 0.0, 0

    async def admit(self, tokens: int) -> float:
        """Wait until a request of so many tokens (read and at most written) may go. The seconds waited."""
        begun = self._clock()
        while True:
            at, epoch = self._reserve(tokens)
            wait = at - self._clock()
            if wait <= 0:
                return self._clock() - begun
            await self._sleep(wait)
            if epoch == self._epoch:
                # Nobody was told to wait in the meantime.
                return self._clock() - begun

    def hold(self, seconds: float) -> None:
        """Nobody goes for so long; who waits already queues again behind it."""
        with self._lock:
            until = self._clock() + seconds
            if seconds > 0 and until > self._held_until:
                self._held_until, self._pause = until, seconds
                self._request_at = self._token_at = until
                self._epoch += 1

    def _reserve(self, tokens: int) -> tuple[float, int]:
        """The time at which the caller may go, which is then taken."""
        with self._lock:
            now = self._clock()
            at = now
            if self.requests_per_minute:
                self._request_at = max(self._request_at, now - _BURST)
                at = max(at, self._request_at)
            if self.tokens_per_minute:
                self._token_at = max(self._token_at, now - _BURST)
                at = max(at, self._token_at)
            if self._held_until > now and not (self.requests_per_minute or self.tokens_per_minute):
                # A rate spreads them by itself.
                at = self._held_until + self._jitter() * self._pause * _SPREAD
            if self.requests_per_minute:
                self._request_at += 60 / self.requests_per_minute
            if self.tokens_per_minute:
                self._token_at += 60 * tokens / self.tokens_per_minute
            return at, self._epoch
