"""The store of traces: what was put is read back, what was committed survives SIGKILL whole, a damaged file
is named.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgr1.synthesis.store import NAME, Decision, StoreError, TraceStore


def decision(sample_id="s", pathway="teacher", attempt=0, **other) -> Decision:
    fields = {
        "dataset": "sim-cholect50",
        "task": "phase_recognition",
        "source": "teacher-x",
        "text": "<think>Level 1: a</think><answer>b</answer>",
        "accepted": False,
        "right": True,
        "checks": {"format": True, "no_leak": False},
        "reasons": ("no_leak: 'as given'",),
        "provenance": {"prompt": "2+01234567", "tokens": "5+2"},
    }
    return Decision(sample_id=sample_id, pathway=pathway, attempt=attempt, **(fields | other))


def test_what_was_put_is_read_back_by_another_opening(tmp_path) -> None:
    rows = [
        decision("a"),
        decision("a", attempt=1, accepted=True, reasons=(), checks={}, provenance={}),
        decision("b", text="", reasons=("no trace: HTTP 500: 'quoted', \"double\"; 50 %",), right=False),
        decision("c", text='Zwerchfell, épiploon, 胆囊\n\n"Level 1:"\x00', reasons=("länge: 3", "b: 2")),
    ]
    with TraceStore(tmp_path / "new" / "folder") as store:
        store.put(rows)
    with TraceStore(tmp_path / "new" / "folder") as store:
        assert list(store.every()) == rows
        assert store.of(["c", "a", "nobody"]) == {"a": rows[:2], "c": rows[3:]}
        assert store.of([]) == {} and store.states([], "teacher") == {}


def test_a_row_is_never_changed(tmp_path) -> None:
    with TraceStore(tmp_path) as store:
        store.put([decision(text="first")])
        store.put([decision(text="second", accepted=True), decision(attempt=1, text="third")])
        assert [d.text for d in store.every()] == ["first", "third"]


def test_a_put_that_fails_stores_nothing_of_it(tmp_path) -> None:
    def broken():
        yield decision("a")
        raise RuntimeError("the source of the decisions fails")

    with TraceStore(tmp_path) as store:
        with pytest.raises(RuntimeError):
            store.put(broken())
        assert list(store.every()) == []
        store.put([decision("b")])
        assert [d.sample_id for d in store.every()] == ["b"]


def test_every_goes_by_sample_then_pathway_then_attempt_whatever_the_order_of_putting(tmp_path) -> None:
    wanted = [(s, p, a) for s in ("s1", "s10", "s2") for p in ("self", "teacher") for a in (0, 1, 2, 10)]
    shuffled = random.Random(3).sample(wanted, len(wanted))
    with TraceStore(tmp_path) as store:
        for name in shuffled:
            store.put([decision(*name)])
        assert [(d.sample_id, d.pathway, d.attempt) for d in store.every()] == wanted
        kept = store.of(["s10"])["s10"]
        assert [(d.pathway, d.attempt) for d in kept] == [n[1:] for n in wanted if n[0] == "s10"]
        assert {d.pathway for d in store.of(["s10"], "teacher")["s10"]} == {"teacher"}


def test_states_count_attempts_of_one_pathway_and_say_whether_one_was_accepted(tmp_path) -> None:
    """More samples than are looked up at once (500)."""
    draw = random.Random(5)
    names = [f"sample-{k}" for k in range(1200)]
    teacher, own, rows = {}, {}, []
    for name in names:
        for pathway, expected in (("teacher", teacher), ("self", own)):
            tried = draw.randrange(4)
            accepted = draw.random() < 0.5
            rows += [
                decision(name, pathway, k, accepted=accepted and k == tried - 1, text="t")
                for k in range(tried)
            ]
            if tried:
                expected[name] = (tried, accepted)
    with TraceStore(tmp_path) as store:
        store.put(rows)
        assert store.states([*names, "nobody"], "teacher") == teacher
        assert store.states(names, "self") == own
        assert sum(map(len, store.of(names).values())) == len(rows)


KILLED = """
import sys
from pathlib import Path
from surgr1.synthesis.store import Decision, TraceStore

with TraceStore(Path(sys.argv[1])) as store:
    for batch in range(int(sys.argv[2]), 100_000):
        store.put(
            Decision(f"{batch}", "d", "t", "teacher", k, "source", f"{batch} {k} " + "x" * 2000, k % 2 == 0,
                     True, {"format": True}, (f"no_leak: {batch}",), {"tokens": "1+1"})
            for k in range(50)
        )
        print(batch, flush=True)
"""


def test_what_was_committed_is_whole_after_sigkill_at_any_moment(tmp_path) -> None:
    """Batches of 50 rows; a batch is confirmed on stdout after its `put`. Killed five times on one store."""
    draw = random.Random(11)
    confirmed: list[int] = []
    for _ in range(5):
        start = confirmed[-1] + 2 if confirmed else 0
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(start)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(draw.randrange(1, 15)):
            confirmed.append(int(child.stdout.readline()))
        time.sleep(draw.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in child.stdout.read().splitlines()]
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        with TraceStore(tmp_path) as store:
            rows = list(store.every())
        found: dict[int, list[Decision]] = {}
        for row in rows:
            found.setdefault(int(row.sample_id), []).append(row)
        assert set(confirmed) <= set(found), "a confirmed batch is lost"
        assert len(set(found) - set(confirmed)) <= 5, "at most one unconfirmed batch a kill"
        for batch, kept in found.items():
            assert [d.attempt for d in kept] == list(range(50)), f"batch {batch} is torn"
            assert all(d.text.startswith(f"{batch} {d.attempt} x") and len(d.text) > 2000 for d in kept)
            assert all(d.accepted == (d.attempt % 2 == 0) for d in kept)
    with sqlite3.connect(tmp_path / NAME) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path, content) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"traces\.sqlite: not a store of traces .*move it away"):
        TraceStore(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("use", ["every", "of", "states", "put"])
def test_a_file_that_is_damaged_further_in_is_named_when_that_is_met(tmp_path, use) -> None:
    path = tmp_path / NAME
    with TraceStore(tmp_path) as store:
        store.put(decision(f"s{k}", text="x" * 2000) for k in range(200))
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xff" * (len(data) - 8192))
    with TraceStore(tmp_path) as store, pytest.raises(StoreError, match=r"traces\.sqlite.*move it away"):
        if use == "every":
            list(store.every())
        elif use == "of":
            store.of(["s5"])
        elif use == "states":
            store.states(["s5"], "teacher")
        else:
            store.put([decision("new")])


def test_a_folder_in_place_of_the_file_is_named(tmp_path) -> None:
    Path(tmp_path / NAME).mkdir()
    with pytest.raises(StoreError, match=r"traces\.sqlite"):
        TraceStore(tmp_path)
