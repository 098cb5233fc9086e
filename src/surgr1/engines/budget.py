"""What calls may cost: an estimate before any is made, and an account that opens each call in the ledger
before a byte is sent, ends it with what it cost, and stops hard at the budget.

What is spent is read from the ledger, so that the stop holds over restarts and for several processes on one
ledger. A call that is under way, or that a kill cut off, counts at the most it may cost until its answer
comes; asked again under the same id, it costs once where the server honours the id.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from surgr1.engines.ledger import Call, Ledger, Spending, request_key
from surgr1.engines.prices import (
    CHARACTERS_PER_TOKEN,
    FEWEST_CHARACTERS_PER_TOKEN,
    UNKNOWN_MODEL,
    Price,
    PriceError,
    tokens_read,
)
from surgr1.engines.replies import Usage
from surgr1.engines.types import Completion, Request, Sampling
from surgr1.ontology.errors import SurgR1Error


class BudgetError(SurgR1Error):
    """The next call does not fit what is left of the budget."""


@dataclass(frozen=True)
class Budget:
    """The most that a ledger's calls may take, all together: US dollars, tokens (read and written); None is
    no limit. Money needs a price. Raises PriceError, BudgetError.
    """

    money: float | None = None
    tokens: int | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.money is not None and self.price is None:
            raise PriceError(
                "a budget in money needs the model's price, and the table has none; add it to a table of your"
                " own, or give the budget in tokens"
            )
        for name, limit in (("money", self.money), ("tokens", self.tokens)):
            if limit is not None and not limit > 0:
                raise BudgetError(f"a budget of {limit} in {name} is none; leave it out for no limit")

    def check(self, spending: Spending, call: Call) -> None:
        """Raise BudgetError when what is spent and open, with this call counted in, is too much."""
        for limit, spent, held, most, form in (
            (self.money, spending.money, spending.open_money, call.money, "${:.4f}"),
            (self.tokens, spending.tokens, spending.open_tokens, call.tokens, "{:,} tokens"),
        ):
            # A hair for the rounding of sums of money.
            if limit is not None and spent + held > limit * (1 + 1e-9):
                left = max(0, limit - spent - (held - most))
                raise BudgetError(
                    f"the next call may take {form.format(most)} and {form.format(left)} of"
                    f" {form.format(limit)} are left ({form.format(spent)} spent, {form.format(held - most)}"
                    " held by other calls under way or cut off); nothing that was answered is lost: raise"
                    " the budget and start again to go on"
                )


def most_usage(request: Request, sampling: Sampling, price: Price | None) -> Usage:
    """The most tokens that one completion may take."""
    rule = price.pictures if price else UNKNOWN_MODEL
    return Usage(tokens_read(request, rule, FEWEST_CHARACTERS_PER_TOKEN), sampling.max_new_tokens)


@dataclass(frozen=True)
class Opened:
    """A call that may be sent: its id, and the most it may take."""

    name: str
    most: Usage
    money: float


class Account:
    """A ledger with a budget, for the engine that makes the calls (`batch`: at a batch's price)."""

    def __init__(self, ledger: Ledger, budget: Budget = Budget(), *, batch: bool = False) -> None:
        self._ledger, self._budget, self._batch = ledger, budget, batch

    @property
    def price(self) -> Price | None:
        return self._budget.price

    def open(
        self, identity: str, asked: Sequence[tuple[Request, Sampling, int]]
    ) -> list[Opened | Completion]:
        """Open calls for completion `sampling.first + k` of each request, all or none, on disk before this
        returns; in place of one that is answered already its completion. Raises BudgetError.
        """
        mosts = [most_usage(request, sampling, self.price) for request, sampling, _ in asked]
        calls = [
            Call(
                request_key(identity, request, sampling),
                sampling.first + k,
                most.tokens_in + most.tokens_out,
                self._cost(most),
            )
            for (request, sampling, k), most in zip(asked, mosts, strict=True)
        ]
        found = self._ledger.begin(calls, self._budget.check)
        return [
            name if isinstance(name, Completion) else Opened(name, most, call.money)
            for name, most, call in zip(found, mosts, calls, strict=True)
        ]

    def answered(self, call: Opened, completion: Completion, usage: Usage) -> None:
        """End a call with its answer, which is stored with it."""
        self._ledger.end(call.name, "answered", money=self._cost(usage), tokens=usage, completion=completion)

    def spoilt(self, call: Opened, error: str, usage: Usage | None) -> None:
        """End a call whose answer came and is of no use: it is paid for, at the most where it does not say
        what it took. Asked again, the completion is another call.
        """
        usage = usage or call.most
        self._ledger.end(call.name, "spoilt", money=self._cost(usage), tokens=usage, error=error)

    def refused(self, call: Opened, error: str) -> None:
        """End a call that surely cost nothing."""
        self._ledger.end(call.name, "refused", error=error)

    def _cost(self, usage: Usage) -> float:
        return self.price.cost(*usage, batch=self._batch) if self.price else 0.0


@dataclass(frozen=True)
class Estimate:
    """What a run would take. The answers' lengths are not known: `least` stands for answers of
    `SHORT_ANSWER` tokens (or the limit, if that is less), `most` for answers up to the limit. Costs are None
    without a price, `seconds` without a latency and for a batch.
    """

    calls: int
    tokens_in: int
    tokens_out_least: int
    tokens_out_most: int
    cost_least: float | None
    cost_most: float | None
    seconds: float | None
    characters_per_token: float = CHARACTERS_PER_TOKEN


SHORT_ANSWER = 60
"""Tokens of a short answer: one of three levels of some 15 words each."""


def estimate(
    requests: Iterable[Request],
    sampling: Sampling,
    price: Price | None = None,
    *,
    batch: bool = False,
    concurrency: int = 8,
    latency_s: float | None = None,
    requests_per_minute: float = 0,
    tokens_per_minute: float = 0,
    progress: Callable[[], None] | None = None,
) -> Estimate:
    """What asking for `sampling.n` completions of each request would take, without sending anything: tokens
    by the price's rule for pictures and four characters a token of text. Time is the longest of what
    `concurrency` calls of `latency_s` at a time, the limit of requests and the limit of tokens (with whole
    answers, as providers count) allow; a batch has none.
    """
    rule = price.pictures if price else UNKNOWN_MODEL
    calls = tokens_in = 0
    for request in requests:
        calls += sampling.n
        tokens_in += sampling.n * tokens_read(request, rule)
        if progress:
            progress()
    least, most = calls * min(SHORT_ANSWER, sampling.max_new_tokens), calls * sampling.max_new_tokens
    seconds = None
    if not batch and latency_s is not None:
        seconds = math.ceil(calls / concurrency) * latency_s
        if requests_per_minute:
            seconds = max(seconds, 60 * calls / requests_per_minute)
        if tokens_per_minute:
            seconds = max(seconds, 60 * (tokens_in + most) / tokens_per_minute)
    costs = [price.cost(tokens_in, out, batch=batch) if price else None for out in (least, most)]
    return Estimate(calls, tokens_in, least, most, costs[0], costs[1], seconds)
