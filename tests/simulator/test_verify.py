"""Every layout: simulated truth -> native files -> adapter -> equal truth, and every damage is noticed. The
recorded evidence, which the table in docs/datasets.md is made from, is what this run finds.
"""

from pathlib import Path

import pytest

from surgr1.corpora.datasets import dataset, dataset_names
from surgr1.simulator.evidence import recorded, source_rows, to_markdown, to_record
from surgr1.simulator.verify import _differences, verify, write_trial
from surgr1.simulator.writers import layouts


@pytest.mark.parametrize("layout", layouts())
def test_round_trip_and_damages(tmp_path, layout) -> None:
    found = verify(layout, tmp_path)
    assert not found.differences, found.differences[:5]
    unnoticed = [(d.kind, d.file, d.text) for d in found.damages if not d.noticed]
    assert not unnoticed
    assert len(found.damages) >= 10 and len({d.kind for d in found.damages}) >= 6
    # What the facts promise is what the adapter asks.
    assert set(found.tasks) <= {str(t) for t in dataset(layout).tasks}
    assert recorded()[layout] == to_record(found)


def test_every_dataset_has_a_writer_and_the_paper_has_twenty_three() -> None:
    assert set(layouts()) == set(dataset_names())
    listed = [n for n in dataset_names() if dataset(n).task_type != "extra"]
    assert len(listed) == 23
    # Figure 2a; the paper's total.
    assert sum(dataset(n).paper_images for n in listed) == 2_755_141


def test_a_difference_is_seen(tmp_path) -> None:
    """The comparison itself: a label, a box, a missing frame, one too many."""
    from surgr1.corpora.sources import read_frames

    source, expected = write_trial("cholect50", tmp_path)
    read = {(f.video, f.frame): f for f in read_frames(source)}
    assert not _differences(read, expected)
    key = next(k for k, row in expected.items() if row["labels"]["boxes"])
    expected[key]["labels"]["phase"] = "lunch"
    box = expected[key]["labels"]["boxes"][0]
    x1, y1, x2, y2 = box["xyxy"]
    box["xyxy"] = (x1 + 3, y1, x2 + 3, y2)
    last = max(expected)
    del expected[last]
    first = min(k for k in read if k != key)
    del read[first]
    found = "\n".join(_differences(read, expected))
    assert "phase: expected lunch" in found and "boxes: expected" in found
    assert f"{last[0]} frame {last[1]}: read, but never written" in found
    assert f"{first[0]} frame {first[1]}: not read" in found


def test_the_document_holds_the_table_that_the_command_prints() -> None:
    rows = source_rows(recorded())
    document = Path(__file__).parents[2] / "docs" / "datasets.md"
    assert to_markdown(rows) in document.read_text(encoding="utf-8")
    assert [r["dataset"] for r in rows if r["task_type"] == "tool localisation"] and len(rows) == len(
        dataset_names()
    )
    lines = to_markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2 and all(x.count(" | ") == 7 for x in lines if not x.startswith("|---"))
