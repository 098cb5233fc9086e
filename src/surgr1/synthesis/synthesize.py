"""Samples to validated conversations through a teacher: resumable, rejected traces kept with their
reasons.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.reasoning.trace import Trace, parse, render
from surgr1.synthesis.conversations import (
    Conversation,
    read_conversations,
    trace_conversation,
    write_conversations,
)
from surgr1.synthesis.teachers import Teacher
from surgr1.synthesis.validate import validate


@dataclass(frozen=True)
class SynthesisReport:
    """Counts of one synthesis and where its files are."""

    accepted: int
    rejected: int
    reasons: dict[str, int]
    accepted_path: Path


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole JSON lines of a work file; a last line cut off by a kill is dropped."""
    if not path.is_file():
        return []
    rows = []
    text = path.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():
        rows.append(json.loads(line))
    path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return rows


def synthesize(
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    teacher: Teacher,
    out: Path,
    *,
    max_attempts: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> SynthesisReport:
    """Ask the teacher for every sample, validate, retry rejected ones. Files in `out`: `accepted.parquet`,
    `rejected.jsonl`, `work.jsonl`.

    `work.jsonl` is appended to as decisions fall, so that a killed synthesis asks only for what is undecided.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = out / "work.jsonl"
    decided: dict[str, dict[str, Any]] = {}
    tried: Counter[str] = Counter()
    for row in _read_lines(work):
        tried[row["sample_id"]] = max(tried[row["sample_id"]], row["attempt"] + 1)
        decided[row["sample_id"]] = row
    by_id = {s.sample_id: s for s in samples}
    with work.open("a", encoding="utf-8") as file:
        for attempt in range(max_attempts):
            todo = [
                s
                for s in samples
                if tried[s.sample_id] <= attempt and not decided.get(s.sample_id, {}).get("accepted")
            ]
            for sample, trace, reason in teacher.traces(todo, images, attempt):
                row = _decide(sample, images[sample.sample_id], trace, reason) | {
                    "sample_id": sample.sample_id,
                    "attempt": attempt,
                }
                file.write(json.dumps(row) + "\n")
                file.flush()
                decided[sample.sample_id] = row
                if progress:
                    progress(len(decided), len(samples))
    accepted: list[Conversation] = []
    reasons: Counter[str] = Counter()
    with (out / "rejected.jsonl").open("w", encoding="utf-8") as rejected:
        for sample_id in by_id:
            row = decided[sample_id]
            if row["accepted"]:
                parsed = parse(row["text"])
                trace = Trace(parsed.levels, parsed.answer or "")
                accepted.append(
                    trace_conversation(
                        by_id[sample_id], images[sample_id], trace, source=teacher.name, checks=row["checks"]
                    )
                )
            else:
                reasons.update(row["reasons"])
                rejected.write(json.dumps(row) + "\n")
    path = out / "accepted.parquet"
    write_conversations(path, accepted)
    return SynthesisReport(len(accepted), len(samples) - len(accepted), dict(reasons), path)


def _decide(sample: Sample, image: PreparedImage, trace: Trace | None, reason: str) -> dict[str, Any]:
    if trace is None:
        return {"accepted": False, "text": "", "checks": {}, "reasons": [reason]}
    text = render(trace)
    findings, _ = validate(text, sample, image)
    failed = [f for f in findings if not f.ok]
    return {
        "accepted": not failed,
        "text": text,
        "checks": {f.check: f.ok for f in findings},
        "reasons": [f"{f.check}: {f.detail}" if f.check == "answer" else f.check for f in failed],
    }


def check_conversations(path: Path) -> dict[str, Any]:
    """Counts of a conversation file: per check passed and failed, per dataset and source, with up to three
    failing examples.
    """
    checks: dict[str, Counter[str]] = {}
    composition: dict[str, Counter[str]] = {}
    failing: list[dict[str, Any]] = []
    total = 0
    for conversation in read_conversations(path):
        total += 1
        composition.setdefault(conversation.dataset, Counter())[conversation.source] += 1
        for name, ok in conversation.checks.items():
            checks.setdefault(name, Counter())["passed" if ok else "failed"] += 1
        if not all(conversation.checks.values()) and len(failing) < 3:
            failing.append(asdict(conversation))
    return {
        "conversations": total,
        "checks": {k: dict(v) for k, v in sorted(checks.items())},
        "composition": {k: dict(v) for k, v in sorted(composition.items())},
        "failing": failing,
    }
