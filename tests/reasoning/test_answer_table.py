"""The table of answers (answer_table.yaml): every row's value, outcome and rung."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.answers import AnswerSpec, Extraction, extract, spec_for
from surgr1.reasoning.trace import Outcome

GROUPS = yaml.safe_load(Path(__file__).with_name("answer_table.yaml").read_text(encoding="utf-8"))
_KINDS = {
    "phase_recognition": "phase",
    "action_recognition": "action",
    "triplet_extraction": "triplet",
    "tool_recognition": "tool",
}


def spec_of(group) -> AnswerSpec:
    task, dataset = Task(group["task"]), group["dataset"]
    options = tuple(group.get("options", ()))
    kind = _KINDS.get(group["task"])
    if not options and kind and has_vocabulary(dataset, kind):
        options = vocabulary(dataset, kind).names
    return spec_for(task, options, dataset, letters=group.get("letters", False))


ROWS = [
    pytest.param(group, *row, id=f"{group['name']}-{i}")
    for group in GROUPS
    for i, row in enumerate(group["rows"])
]


@pytest.mark.parametrize(("group", "text", "value", "outcome", "rung"), ROWS)
def test_every_row_of_the_table_holds(group, text, value, outcome, rung) -> None:
    found = extract(
        group["form"].replace("{}", text),
        spec_of(group),
        finish_reason=group.get("finish", "stop"),
        fuzzy=group.get("fuzzy", False),
    )
    assert found == Extraction(value, Outcome(outcome), rung)


def test_the_table_is_large_and_holds_every_outcome_and_rung() -> None:
    rows = [row for group in GROUPS for row in group["rows"]]
    assert len(rows) >= 250
    assert set(Counter(row[2] for row in rows)) == {str(o) for o in Outcome}
    assert {row[3] for row in rows} == {"exact", "alias", "letter", "mention", "fuzzy", ""}
