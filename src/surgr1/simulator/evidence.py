"""What is known of every dataset and how, as one table: the facts of `corpora.datasets` beside what was found
by `simulator.verify`. `evidence.json` holds the last finding (`surgr1 data sources --verify --record`), and
a test holds it to what the code does.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgr1.corpora.datasets import dataset, dataset_names
from surgr1.simulator.verify import Evidence, verify
from surgr1.simulator.writers import layouts

Record = dict[str, Any]


def to_record(found: Evidence) -> Record:
    """The numbers of one layout's evidence as JSON values."""
    return {
        "videos": found.videos,
        "frames": found.frames,
        "tasks": found.tasks,
        "differences": len(found.differences),
        "tried": len(found.damages),
        "noticed": sum(bool(d.noticed) for d in found.damages),
        "kinds": dict(sorted(Counter(d.kind for d in found.damages).items())),
    }


def gather(progress: Callable[[str], None] | None = None) -> dict[str, Record]:
    """Verify every layout that can be written."""
    found: dict[str, Record] = {}
    for layout in layouts():
        if progress:
            progress(layout)
        with tempfile.TemporaryDirectory() as folder:
            found[layout] = to_record(verify(layout, Path(folder)))
    return found


def recorded() -> dict[str, Record]:
    """What `evidence.json` holds."""
    path = Path(__file__).with_name("evidence.json")
    records: dict[str, Record] = json.loads(path.read_text(encoding="utf-8"))
    return records


def source_rows(evidence: Mapping[str, Record]) -> list[dict[str, Any]]:
    """One row per dataset, the paper's 23 first, in the order of its figure's task types."""
    order = ("tool localisation", "surgical VQA", "triplet / interaction", "CVS", "phase / anatomy", "action")
    names = sorted(
        dataset_names(),
        key=lambda n: ([*order, "extra"].index(dataset(n).task_type), dataset(n).title),
    )
    return [_row(name, evidence.get(name)) for name in names]


def _row(name: str, record: Record | None) -> dict[str, Any]:
    facts = dataset(name)
    if record is None:
        trip, corruptions = "no writer", "none"
    else:
        state = "equal" if not record["differences"] else f"{record['differences']} differences"
        trip = f"{state}: {record['frames']} frames of {record['videos']} videos"
        kinds = ", ".join(f"{k} {n}" for k, n in record["kinds"].items())
        corruptions = f"{record['noticed']} of {record['tried']} ({kinds})"
    return {
        "dataset": name,
        "title": facts.title,
        "task_type": facts.task_type,
        "paper_images": facts.paper_images,
        "difference": facts.difference,
        "layout": facts.files,
        "layout_evidence": facts.layout_evidence,
        "tasks": [str(t) for t in facts.tasks],
        "splits": [*facts.splits, *facts.own_splits],
        "default_split": facts.default_split,
        "licence": facts.licence,
        "licence_evidence": facts.licence_evidence,
        "policy": facts.policy,
        "real_sample": facts.real_sample,
        "round_trip": trip,
        "corruptions": corruptions,
    }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/datasets.md."""
    lines = [
        "| dataset | paper's images | layout verified by | tasks | splits | round trip (simulated) |"
        " real sample | corruptions noticed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row['title']} (`{row['dataset']}`)",
            f"{row['paper_images']:,}" if row["paper_images"] else "-",
            row["layout_evidence"],
            ", ".join(t.replace("_", " ") for t in row["tasks"]),
            ", ".join(row["splits"]),
            row["round_trip"],
            row["real_sample"] or "none public",
            row["corruptions"],
        ]
        lines.append("| " + " | ".join(str(c).replace("\n", " ").strip() for c in cells) + " |")
    return "\n".join(lines)
