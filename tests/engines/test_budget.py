"""Prices, estimates, and the hard stop: over answers, kills, restarts and several processes."""

import sqlite3
import threading
from datetime import date

import pytest
from PIL import Image

from surgr1.engines.budget import Account, Budget, BudgetError, Opened, estimate
from surgr1.engines.ledger import Call, Ledger, Spending, request_key
from surgr1.engines.prices import Patches, Price, PriceError, Tiles, price_of, read_prices, tokens_read
from surgr1.engines.replies import Usage
from surgr1.engines.types import Completion, Request, Sampling

PRICE = Price(
    input=2.0, cached=0.5, output=8.0, batch=0.5, source="a hand-made table", checked=date(2026, 1, 1)
)
ANSWER = Completion("a", "stop", 100, 20, 0.1, 1, "openai", "m")


def asking(count: int, **fields) -> list[Request]:
    return [Request(str(k), f"q{k}", (), "public", **fields) for k in range(count)]


# --- prices


def test_every_price_of_the_table_says_where_and_when_it_was_seen() -> None:
    prices = read_prices()
    assert {"gpt-5.1", "gpt-4o"} <= set(prices)
    for name, price in prices.items():
        assert len(price.source) > 5 and price.checked >= date(2025, 1, 1), name
        assert 0 < price.cached <= price.input <= price.output, name


def test_a_call_costs_what_its_tokens_cost() -> None:
    """By hand: 1,000,000 read of which 200,000 cached, 100,000 written."""
    assert PRICE.cost(1_000_000, 100_000, 200_000) == pytest.approx(0.8 * 2 + 0.2 * 0.5 + 0.1 * 8)
    assert PRICE.cost(1_000_000, 100_000, 200_000, batch=True) == pytest.approx(2.5 / 2)


@pytest.mark.parametrize(
    "size, tokens",
    [((1024, 1024), 765), ((2048, 4096), 1105), ((4096, 8192), 1105), ((512, 512), 255), ((513, 512), 425)],
)
def test_tiles_are_counted_as_in_the_providers_examples(size, tokens) -> None:
    """OpenAI's guide to vision, calculating costs, high detail (the first three are its own examples)."""
    assert read_prices()["gpt-4o"].pictures.tokens(*size) == tokens


@pytest.mark.parametrize("size, tokens", [((1024, 1024), 1024), ((1800, 2400), 1452), ((32, 33), 2)])
def test_patches_are_counted_as_in_the_providers_examples(size, tokens) -> None:
    """The same guide, for models that see 32 x 32 patches (the first two are its own examples)."""
    assert Patches(side=32, most=1536).tokens(*size) == tokens


def test_patches_never_pass_their_limit() -> None:
    rule = Patches(side=32, most=1536)
    for width, height in ((4000, 1474), (2400, 1800), (1920, 1080), (1537, 1024), (40000, 40)):
        assert 1 <= rule.tokens(width, height) <= 1536


def test_a_picture_of_another_provider_is_tiles_without_a_base() -> None:
    """Gemini: 258 up to 384 x 384, else 258 for each tile of 768 x 768."""
    rule = read_prices()["gemini-2.5-flash"].pictures
    assert [rule.tokens(*s) for s in ((384, 384), (600, 400), (960, 540))] == [258, 258, 516]


def test_a_price_is_found_under_a_prefix_and_a_snapshots_date() -> None:
    prices = read_prices()
    assert price_of("gpt-5.1-2025-11-13", prices) is price_of("openai/gpt-5.1", prices) is prices["gpt-5.1"]
    assert price_of("gpt-5-mini", prices) is prices["gpt-5-mini"]
    assert price_of("gpt-5.10", prices) is price_of("Qwen/Qwen2.5-VL-7B-Instruct", prices) is None


def test_a_users_file_replaces_the_table(tmp_path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("mine: {input: 1, cached: 1, output: 2, source: my contract, checked: 2026-05-01}\n")
    assert set(read_prices(path)) == {"mine"}
    assert read_prices(path)["mine"].pictures.tokens(280, 28) == 10, "28 x 28 where nothing is said"


@pytest.mark.parametrize(
    "text",
    [
        "mine: {input: 1, output: 2, source: x, checked: 2026-05-01}",
        "mine: {input: 1, cached: 1, output: 2, checked: 2026-05-01}",
        "mine: {input: -1, cached: 1, output: 2, source: x, checked: 2026-05-01}",
        "mine: {input: 1, cached: 1, output: 2, source: x, checked: 2026-05-01, extra: 1}",
        "mine: {input: 1, cached: 1, output: 2, source: x, checked: 2026-05-01, pictures: {kind: no}}",
        "- 1",
        "{",
    ],
)
def test_a_table_with_an_error_is_named(tmp_path, text) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PriceError, match=r"p\.yaml: not a table of prices"):
        read_prices(path)
    with pytest.raises(PriceError, match=r"none\.yaml"):
        read_prices(tmp_path / "none.yaml")


# --- estimates


def test_an_estimate_adds_up_by_hand(tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (512, 512)).save(path)
    price = PRICE.model_copy(update={"pictures": Tiles(base=85, tile=170, side=512)})
    requests = [Request(str(k), "x" * 400, (path,), "public", system="y" * 40) for k in range(10)]
    found = estimate(
        requests,
        Sampling(max_new_tokens=500, n=2),
        price,
        concurrency=4,
        latency_s=3,
        requests_per_minute=30,
    )
    read = 440 // 4 + 12 + 255
    assert (found.calls, found.tokens_in) == (20, 20 * read)
    assert (found.tokens_out_least, found.tokens_out_most) == (20 * 60, 20 * 500)
    assert found.cost_least == pytest.approx((20 * read * 2 + 1200 * 8) / 1e6)
    assert found.cost_most == pytest.approx((20 * read * 2 + 10_000 * 8) / 1e6)
    assert found.seconds == pytest.approx(40), "30 a minute is slower than 5 rounds of 3 s"
    assert found.characters_per_token == 4


def test_the_time_is_the_slowest_of_three_limits() -> None:
    settings = {"concurrency": 10, "latency_s": 2.0}
    requests, sampling = asking(100), Sampling(max_new_tokens=988)
    assert estimate(requests, sampling, **settings).seconds == 20
    assert estimate(requests, sampling, requests_per_minute=60, **settings).seconds == 100
    # q0 to q99 are one token each, 12 around it, 988 for the answer: 1,001 each.
    slow = estimate(requests, sampling, tokens_per_minute=6006, requests_per_minute=60, **settings)
    assert slow.seconds == pytest.approx(1000)
    assert estimate(requests, sampling).seconds is None
    assert estimate(requests, sampling, batch=True, **settings).seconds is None


def test_an_estimate_without_a_price_has_no_cost_and_with_a_batch_half() -> None:
    assert estimate(asking(3), Sampling()).cost_most is None
    live, batch = (estimate(asking(3), Sampling(), PRICE, batch=b) for b in (False, True))
    assert batch.cost_most == pytest.approx(live.cost_most / 2)


def test_a_picture_that_is_gone_is_named(tmp_path) -> None:
    with pytest.raises(PriceError, match=r"gone\.png"):
        tokens_read(Request("1", "q", (tmp_path / "gone.png",), "public"), Patches(side=28))


# --- the account


def summed(path) -> Spending:
    """The spending by adding the calls up, not by the ledger's own running sums."""
    db = sqlite3.connect(path)
    (ended,) = db.execute(
        "SELECT COALESCE(SUM(money), 0), COALESCE(SUM(tokens_in + tokens_out), 0) FROM calls"
        " WHERE state != 'open'"
    ).fetchall()
    (held,) = db.execute(
        "SELECT COALESCE(SUM(most_money), 0), COALESCE(SUM(most_tokens), 0) FROM calls WHERE state = 'open'"
    ).fetchall()
    db.close()
    return Spending(*ended, *held)


def one(account, request, k=0, sampling=Sampling(max_new_tokens=100)) -> Opened:  # noqa: B008
    (found,) = account.open("m", [(request, sampling, k)])
    return found


def same(found: Spending, wanted: Spending) -> None:
    assert (found.tokens, found.open_tokens) == (wanted.tokens, wanted.open_tokens)
    assert (found.money, found.open_money) == pytest.approx((wanted.money, wanted.open_money))


def test_a_call_is_held_at_its_worst_and_settled_at_its_cost(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    account = Account(ledger, Budget(price=PRICE))
    (request,) = asking(1)
    call = one(account, request)
    # "q0": one token at three characters each, 12 around it; 100 for the answer.
    assert call.most == Usage(13, 100)
    same(ledger.spending(), Spending(0, 0, (13 * 2 + 800) / 1e6, 113))
    account.answered(call, ANSWER, Usage(100, 20, 50))
    same(ledger.spending(), Spending((50 * 2 + 50 * 0.5 + 160) / 1e6, 120, 0, 0))
    same(ledger.spending(), summed(path))
    key = request_key("m", request, Sampling(max_new_tokens=100))
    assert ledger.get(key, 1) == [ANSWER], "stored with it"
    assert one(account, request) == ANSWER, "and not bought again"


def test_a_batch_is_charged_its_own_price(tmp_path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    account = Account(ledger, Budget(price=PRICE), batch=True)
    account.answered(one(account, asking(1)[0]), ANSWER, Usage(100, 20))
    assert ledger.spending().money == pytest.approx((200 + 160) / 2e6)


def test_no_call_begins_that_could_pass_the_budget(tmp_path) -> None:
    """Of 113 tokens each, 500 hold four; an answer that took less makes room."""
    path = tmp_path / "l.sqlite"
    account = Account(Ledger(path), Budget(tokens=500))
    requests = asking(10)
    calls = [one(account, r) for r in requests[:4]]
    with pytest.raises(
        BudgetError, match=r"113 tokens and 48 tokens of 500 tokens are left.*452 tokens held"
    ):
        one(account, requests[4])
    same(summed(path), Spending(0, 0, 0, 452))
    account.answered(calls[0], ANSWER, Usage(20, 20))
    one(account, requests[4])
    with pytest.raises(BudgetError, match="40 tokens spent"):
        one(account, requests[5])
    with pytest.raises(BudgetError):
        account.open("m", [(r, Sampling(max_new_tokens=1), 0) for r in requests[5:]])
    # All or none.
    same(summed(path), Spending(0, 40, 0, 452))


def test_the_budget_in_money_counts_what_is_under_way(tmp_path) -> None:
    most = (13 * 2 + 800) / 1e6
    account = Account(Ledger(tmp_path / "l.sqlite"), Budget(money=2.5 * most, price=PRICE))
    first, second, third = asking(3)
    one(account, first)
    one(account, second)
    with pytest.raises(BudgetError, match=r"\$0\.0008 and \$0\.0004 of \$0\.0021 are left"):
        one(account, third)


def test_a_budget_of_exactly_what_is_needed_is_enough(tmp_path) -> None:
    """Whatever the rounding of a thousand sums."""
    account = Account(Ledger(tmp_path / "l.sqlite"), Budget(money=1000 * (13 * 2 + 800) / 1e6, price=PRICE))
    requests = [Request(str(k), "qq", (), "public", system=chr(200 + k % 99)) for k in range(1000)]
    sampling = [Sampling(max_new_tokens=100, seed=k) for k in range(1000)]
    for request, s in zip(requests, sampling, strict=True):
        one(account, request, sampling=s)
    with pytest.raises(BudgetError):
        one(account, asking(1)[0])


def test_the_stop_survives_a_restart(tmp_path) -> None:
    """What was spent stays spent; what was cut off counts at its worst until it is answered."""
    path = tmp_path / "l.sqlite"
    first, second, third = asking(3)
    before = Account(Ledger(path), Budget(tokens=300))
    before.answered(one(before, first), ANSWER, Usage(100, 20))
    cut = one(before, second)
    after = Account(Ledger(path), Budget(tokens=300))
    with pytest.raises(BudgetError, match=r"67 tokens of 300.*120 tokens spent, 113 tokens held"):
        one(after, third)
    again = one(after, second)
    assert again.name == cut.name, "the same call, which a server bills once"
    after.answered(again, ANSWER, Usage(10, 20))
    one(after, third)
    same(summed(path), Spending(0, 150, 0, 113))
    raised = Account(Ledger(path), Budget(tokens=10**6))
    assert isinstance(one(raised, asking(5)[4]), Opened)


def test_a_budget_that_was_lowered_stops_what_is_open_too(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    (request,) = asking(1)
    one(Account(Ledger(path), Budget()), request)
    with pytest.raises(BudgetError):
        one(Account(Ledger(path), Budget(tokens=100)), request)


def test_what_was_refused_costs_nothing_and_keeps_its_name(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    account = Account(Ledger(path), Budget(price=PRICE))
    (request,) = asking(1)
    call = one(account, request)
    account.refused(call, "HTTP 400")
    same(summed(path), Spending())
    assert one(account, request).name == call.name


def test_a_call_cut_off_once_is_settled_by_nothing_but_an_answer(tmp_path) -> None:
    """Refused the second time, it may have been billed the first time."""
    path = tmp_path / "l.sqlite"
    (request,) = asking(1)
    one(Account(Ledger(path)), request)
    account = Account(Ledger(path))
    account.refused(one(account, request), "HTTP 429")
    same(summed(path), Spending(0, 0, 0, 113))
    account.answered(one(account, request), ANSWER, Usage(5, 5))
    same(summed(path), Spending(0, 10, 0, 0))


def test_an_answer_of_no_use_is_paid_and_asked_again_under_another_name(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    account = Account(ledger, Budget(price=PRICE))
    (request,) = asking(1)
    names = []
    for usage in (Usage(50, 5), None):
        call = one(account, request)
        names.append(call.name)
        account.spoilt(call, "no text", usage)
    same(ledger.spending(), Spending((50 * 2 + 5 * 8 + 13 * 2 + 800) / 1e6, 55 + 113))
    call = one(account, request)
    account.answered(call, ANSWER, Usage(1, 1))
    assert len({*names, call.name}) == 3
    same(ledger.spending(), summed(path))


def test_names_of_calls_tell_completions_apart_and_fit_a_batch(tmp_path) -> None:
    account = Account(Ledger(tmp_path / "l.sqlite"))
    (request,) = asking(1)
    samplings = [Sampling(n=3), Sampling(n=3, temperature=0.5), Sampling(n=3, first=3)]
    names = [one(account, request, k, s).name for s in samplings for k in range(3)]
    assert len(set(names)) == 9 and all(len(n) <= 64 and n.isascii() for n in names)
    assert one(account, request, 0, Sampling(first=5)).name == names[-1], "by its index, however it is asked"


def test_two_processes_share_one_budget(tmp_path) -> None:
    """Each with its own ledger on the same file, at the same time."""
    path = tmp_path / "l.sqlite"
    Ledger(path).close()
    opened, stopped = [], []

    def work(start: int) -> None:
        account = Account(Ledger(path), Budget(tokens=113 * 50))
        for k in range(start, start + 40):
            try:
                opened.append(one(account, Request(str(k), f"q{k:02}"[:2], (), "public", system=chr(97 + k))))
            except BudgetError:
                stopped.append(k)

    threads = [threading.Thread(target=work, args=(s,)) for s in (0, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 50 and len(stopped) == 30
    assert summed(path).open_tokens == 113 * 50


def test_two_processes_that_open_the_same_calls_open_them_once(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    Ledger(path).close()
    requests, together = asking(200), threading.Barrier(2)

    def work() -> None:
        account = Account(Ledger(path))
        for request in requests:
            together.wait(60)
            one(account, request)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(Ledger(path).spending(), summed(path))
    assert sqlite3.connect(path).execute("SELECT COUNT(*) FROM calls").fetchone() == (200,)


def test_a_budget_in_money_needs_a_price() -> None:
    with pytest.raises(PriceError, match="in tokens"):
        Budget(money=5)
    with pytest.raises(BudgetError, match="leave it out"):
        Budget(tokens=0)


def test_a_ledger_from_before_calls_stays_readable(tmp_path) -> None:
    """Its tables as version 0.1.0 made them."""
    path = tmp_path / "l.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE completions (key TEXT, k INTEGER, body TEXT, PRIMARY KEY (key, k))")
    db.execute("CREATE TABLE failures (key TEXT, error TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP)")
    (request,) = asking(1)
    sampling = Sampling(max_new_tokens=100)
    body = (
        '{"text": "old", "finish_reason": "stop", "tokens_in": 1, "tokens_out": 2, "latency_s": 0.1,'
        ' "attempts": 1, "engine": "openai", "model": "m", "error": ""}'
    )
    db.execute("INSERT INTO completions VALUES (?, 0, ?)", (request_key("m", request, sampling), body))
    db.commit()
    db.close()
    account = Account(Ledger(path), Budget(tokens=500))
    assert one(account, request).text == "old"
    assert isinstance(one(account, request, 1), Opened)


def test_a_check_that_fails_leaves_no_call_behind(tmp_path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")

    def never(spending: Spending, call: Call) -> None:
        raise BudgetError("no")

    with pytest.raises(BudgetError):
        ledger.begin([Call("k", 0, 5, 0.1)], never)
    assert ledger.spending() == Spending() == summed(ledger.path)
