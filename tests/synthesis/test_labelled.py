"""How good the checks of a trace are on traces labelled by hand: sizes of the sets, the scores that they must
keep, the arithmetic against hand cases and scipy, and what the loader says of a broken file.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgr1.synthesis.labelled import (
    CheckScore,
    LabelledError,
    checks_table,
    counts,
    read_labelled,
    score_checks,
)
from surgr1.synthesis.validate import CHECKS

FILES = {name: Path(__file__).parent / f"labelled_{name}.yaml" for name in ("dev", "tuning", "held_out")}


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, CheckScore]]:
    return {name: {s.check: s for s in score_checks(path)} for name, path in FILES.items()}


def test_there_are_200_traces_with_names_of_their_own() -> None:
    names = [entry.name for path in FILES.values() for entry in read_labelled(path)]
    assert len(names) >= 200 and len(set(names)) == len(names)
    for path in FILES.values():
        found = counts(path)
        # Neither kind may be rare: precision needs good traces, recall bad ones.
        assert found["traces"] >= 50 and 0.3 <= found["good"] / found["traces"] <= 0.7


def test_every_check_is_violated_eight_times_and_in_every_file(scores) -> None:
    for check in CHECKS:
        violated = {name: scores[name][check].violated for name in FILES}
        assert sum(violated.values()) >= 8, check
        assert all(violated.values()), check


@pytest.mark.parametrize(
    ("name", "precision", "recall"), [("dev", 0.93, 0.93), ("tuning", 0.9, 0.93), ("held_out", 0.8, 0.85)]
)
def test_rejection_keeps_its_precision_and_recall(scores, name, precision, recall) -> None:
    total = scores[name]["any"]
    assert (total.precision or 0) >= precision, f"good traces rejected: {', '.join(total.wrong)}"
    assert (total.recall or 0) >= recall, f"bad traces accepted: {', '.join(total.missed)}"


def entry(name: str, text: str, violates: list[str]) -> dict[str, Any]:
    return {
        "id": name,
        "dataset": "cholect50",
        "procedure": "laparoscopic cholecystectomy",
        "task": "tool_recognition",
        "question": "Which tools are in the picture?",
        "answer": "grasper",
        "labels": {"tools": ["grasper"]},
        "size": [854, 480],
        "text": text,
        "violates": violates,
    }


GOOD = "<think>Level 1: A grasper holds the gallbladder from the left side.</think><answer>grasper</answer>"
LEAK = GOOD.replace("A grasper", "As the ground truth says, a grasper")
WRONG = GOOD.replace("<answer>grasper", "<answer>hook")


def write(path: Path, rows: object) -> Path:
    path.write_text(yaml.safe_dump(rows), encoding="utf-8")
    return path


def test_precision_and_recall_of_a_case_counted_by_hand(tmp_path) -> None:
    rows = [
        entry("good", GOOD, []),
        entry("found", LEAK, ["no_leak"]),
        # Labelled against the checks on purpose: two that are missed, one that is wrongly found.
        entry("missed", GOOD, ["no_leak"]),
        entry("missed, too", GOOD, ["no_leak"]),
        entry("wrong", LEAK, []),
        entry("answer", WRONG, ["answer"]),
    ]
    found = {s.check: s for s in score_checks(write(tmp_path / "few.yaml", rows))}
    assert found["no_leak"] == CheckScore("no_leak", 3, 2, 1, ("missed", "missed, too"), ("wrong",))
    assert found["no_leak"].precision == 1 / 2 and found["no_leak"].recall == 1 / 3
    assert found["answer"] == CheckScore("answer", 1, 1, 1, (), ())
    # Four are bad by label, three are rejected, two of those rightly.
    assert found["any"] == CheckScore("any", 4, 3, 2, ("missed", "missed, too"), ("wrong",))
    assert found["any"].precision == 2 / 3 and found["any"].recall == 2 / 4
    assert found["length"].precision is None and found["length"].recall is None
    assert [*found] == [*CHECKS, "any"]
    assert counts(tmp_path / "few.yaml") == {"traces": 6, "good": 2}


def test_a_trace_with_several_violations_counts_once_in_any(tmp_path) -> None:
    both = LEAK.replace("<answer>grasper", "<answer>hook")
    rows = [entry("both", both, ["no_leak", "answer"])]
    found = {s.check: s for s in score_checks(write(tmp_path / "few.yaml", rows))}
    assert found["any"] == CheckScore("any", 1, 1, 1, (), ())


def test_the_intervals_of_the_table_are_wilsons() -> None:
    from scipy.stats import binomtest

    for part, whole in ((0, 5), (5, 5), (7, 9), (105, 109), (1, 1), (40, 100)):
        lines = checks_table([CheckScore("x", whole, whole + 3, part, (), ())]).splitlines()
        cells = [c.strip() for c in lines[2].strip("|").split("|")]
        assert cells[:3] == ["x", str(whole), str(whole + 3)]
        for cell, n in ((cells[3], whole + 3), (cells[4], whole)):
            share, low, high = map(int, re.findall(r"-?\d+", cell))
            exact = binomtest(part, n).proportion_ci(method="wilson")
            assert (share, low, high) == (
                round(100 * part / n),
                round(100 * exact.low),
                round(100 * exact.high),
            )
    empty = checks_table([CheckScore("x", 0, 0, 0, (), ())]).splitlines()
    assert empty[2] == "| x | 0 | 0 | - | - |"


@pytest.mark.parametrize(
    "key", ["id", "dataset", "procedure", "task", "question", "answer", "labels", "size"]
)
def test_a_missing_key_names_file_and_entry(tmp_path, key) -> None:
    rows = [entry("first", GOOD, []), entry("second", GOOD, [])]
    del rows[1][key]
    path = write(tmp_path / "few.yaml", rows)
    with pytest.raises(LabelledError) as error:
        list(read_labelled(path))
    assert str(path) in str(error.value) and f"'{key}'" in str(error.value) and "entry 1" in str(error.value)
    assert key == "id" or "second" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"violates": ["no_leek"]}, ["no_leek", "unknown check"]),
        ({"task": "guessing"}, ["guessing"]),
        ({"size": [854]}, ["unpack"]),
        ({"labels": {"colour": ["red"]}}, ["colour"]),
        ({"violates": None}, ["NoneType"]),
    ],
)
def test_a_wrong_value_names_file_and_entry(tmp_path, change, words) -> None:
    path = write(tmp_path / "few.yaml", [entry("first", GOOD, []), entry("second", GOOD, []) | change])
    with pytest.raises(LabelledError) as error:
        list(read_labelled(path))
    for word in (str(path), "entry 1", "second", *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("first: second", "expected a list of traces, found dict"),
        ("", "expected a list of traces, found NoneType"),
        ("- [1, 2", "cannot be read"),
        ("- just words", "entry 0"),
    ],
)
def test_a_file_that_is_no_list_of_traces_is_named(tmp_path, content, words) -> None:
    path = tmp_path / "few.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LabelledError, match=re.escape(words)) as error:
        list(read_labelled(path))
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(LabelledError, match="cannot be read"):
        list(read_labelled(tmp_path / "none.yaml"))
