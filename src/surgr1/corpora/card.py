"""The dataset card of a built corpus: counts beside the paper's, licences, what was left out and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from surgr1.corpora.datasets import Dataset, dataset, dataset_names
from surgr1.corpora.registry import Isolation


def dataset_card(bodies: Sequence[Mapping[str, Any]], isolation: Isolation) -> str:
    """Markdown with the YAML head that `datasets` reads. `bodies` are the datasets' `source.json`."""
    simulated = [b["dataset"] for b in bodies if b["dataset"].startswith("sim-")]
    samples = sum(b["samples"] for b in bodies)
    parts = [
        _head(bodies),
        "# SurgDB corpus built by surgr1",
        "Not for clinical use."
        + (f" **Simulated data**: {', '.join(simulated)}." if simulated else "")
        + " Made by `surgr1 data build`; every number below is counted, none is typed.",
        f"{samples:,} samples of {sum(sum(b['frames'].values()) for b in bodies):,} labelled frames.",
        "## Datasets",
        _datasets(bodies),
        *(_counts(bodies, name) for name in ("task", "level", "procedure", "centre", "policy", "licence")),
        "## Isolation",
        _isolation(bodies, isolation),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _head(bodies: Sequence[Mapping[str, Any]]) -> str:
    lines = ["---", "license: other", "task_categories: [visual-question-answering]", "configs:"]
    lines += ["- config_name: default", "  data_files: '*/part-*.parquet'"]
    for body in bodies:
        lines += [f"- config_name: {body['dataset']}", f"  data_files: {body['dataset']}/part-*.parquet"]
    return "\n".join([*lines, "---"])


def _facts(body: Mapping[str, Any]) -> Dataset | None:
    layout = body["layout"]
    return dataset(layout) if layout in dataset_names() else None


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c) for c in row) + " |" for row in lines)


def _datasets(bodies: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    notes = []
    for body in bodies:
        facts, train = _facts(body), body["frames"].get("train", 0)
        paper = facts.paper_images if facts else None
        rows.append(
            [
                body["dataset"],
                f"{body['samples']:,}",
                f"{train:,}",
                f"{paper:,}" if paper else "-",
                f"{train - paper:+,}" if paper else "-",
                f"{sum(body['frames'].values()) - train:,}",
                len(body["excluded"]),
                body["rejected"],
            ]
        )
        if facts and facts.difference and not body["dataset"].startswith("sim-"):
            notes.append(f"- {facts.title}: {facts.difference.strip()}")
    head = [
        "dataset",
        "samples",
        "training frames",
        "paper (Figure 2a)",
        "difference",
        "other frames",
        "training videos left out",
        "rows in quarantine",
    ]
    return "\n\n".join([_table(head, rows), *(["\n".join(notes)] if notes else [])])


def _counts(bodies: Sequence[Mapping[str, Any]], name: str) -> str:
    total: Counter[str] = Counter()
    for body in bodies:
        total.update(body["counts"][name])
    rows = [
        [value or "(not stated)", f"{n:,}"] for value, n in sorted(total.items(), key=lambda x: (-x[1], x[0]))
    ]
    return f"## Samples by {name}\n\n{_table([name, 'samples'], rows)}"


def _isolation(bodies: Sequence[Mapping[str, Any]], isolation: Isolation) -> str:
    sets = ", ".join(isolation.evaluation) or "every dataset's own evaluation videos"
    text = f"Held out from training: {sets}."
    if isolation.leaks == "allow":
        return f"{text} **Leaks were allowed**: {isolation.reason}"
    lost = [f"- {b['dataset']}: {', '.join(b['excluded'])}" for b in bodies if b["excluded"]]
    if lost:
        return (
            f"{text} Training videos left out because an evaluation set holds their operation:\n\n"
            + "\n".join(lost)
        )
    return f"{text} No training operation is in an evaluation set."
