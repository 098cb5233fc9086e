"""Surg-R1-Data from a run: the conversations of both pathways in one data set with a card, counted as the
paper's Table 3 counts its own.

    out/
      train-00000-of-00003.parquet   conversations (`conversations`), in the order of the files
      excluded.jsonl                 what reviewers rejected, what stands twice, local_only data (no text)
      composition.json, README.md    counts and the card
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.vocabularies import layout_of
from surgr1.synthesis.conversations import Conversation, in_batches, read_conversations, write_conversations
from surgr1.synthesis.review import fingerprint
from surgr1.synthesis.validate import CHECKS

SHARD = 50_000

TABLE_3: Mapping[str, tuple[tuple[str, ...], int, int]] = {
    "Cholec80 + CholecT50": (("cholec80", "cholect50"), 9_262, 103_492),
    "MultiBypass140": (("multibypass140",), 6_000, 71_479),
    "SAR-RARP50": (("sar-rarp50",), 5_975, 64_530),
    "Endoscapes": (("endoscapes",), 6_000, 37_857),
    "EndoVis18-VQA": (("endovis18-vqa",), 11_862, 2_244),
    "EndoVis17": (("endovis17",), 1_776, 0),
}
"""Row -> (layouts, "GPT Generated", "Surg-R1 Generated") of the paper's Table 3."""


class DatasetError(SurgR1Error):
    """A data set that cannot be built."""


def pathway_of(conversation: Conversation) -> str:
    """ "teacher" or "self"; conversations of older runs say it by their source."""
    said = conversation.provenance.get("pathway")
    return said or ("self" if "/iteration-" in conversation.source else "teacher")


def composition(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """One row per row of Table 3 and per other data set, then the total: {"name", "teacher", "self", "total",
    "simulated", "paper": {...} or None}.
    """
    counted = _Counted()
    for c in conversations:
        counted.add(c)
    return counted.rows()


class _Counted:
    """What is counted of conversations, in one pass over them."""

    def __init__(self) -> None:
        self._pathways: Counter[tuple[str, str]] = Counter()
        self._simulated: set[str] = set()
        self.checks: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self.policies: Counter[str] = Counter()

    def add(self, c: Conversation) -> None:
        layout = layout_of(c.dataset)
        name = next((n for n, (layouts, _, _) in TABLE_3.items() if layout in layouts), c.dataset)
        self._pathways[name, pathway_of(c)] += 1
        if c.dataset.startswith("sim-"):
            self._simulated.add(name)
        self.checks.update(check for check, ok in c.checks.items() if ok)
        self.sources[c.source] += 1
        prompt, knowledge = (c.provenance.get(k, "-") for k in ("prompt", "knowledge"))
        self.versions[f"prompt {prompt}, knowledge {knowledge}"] += 1
        self.policies[c.policy] += 1

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `composition`."""
        counts = self._pathways
        others = sorted({n for n, _ in counts} - set(TABLE_3))
        rows = [
            _row(name, counts[name, "teacher"], counts[name, "self"], name in self._simulated)
            for name in (*TABLE_3, *others)
        ]
        paper = [r["paper"] for r in rows if r["paper"]]
        total = _row(
            "Total", sum(r["teacher"] for r in rows), sum(r["self"] for r in rows), bool(self._simulated)
        )
        total["paper"] = {k: sum(p[k] for p in paper) for k in ("teacher", "self", "total")}
        return [*rows, total]


def _row(name: str, teacher: int, own: int, simulated: bool) -> dict[str, Any]:
    paper = None
    if name in TABLE_3:
        _, by_teacher, by_model = TABLE_3[name]
        paper = {"teacher": by_teacher, "self": by_model, "total": by_teacher + by_model}
    return {
        "name": name,
        "teacher": teacher,
        "self": own,
        "total": teacher + own,
        "simulated": simulated,
        "paper": paper,
    }


def composition_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown, ours beside the paper's."""
    lines = [
        "| data set | teacher | self | total | paper: GPT | paper: Surg-R1 | paper: total |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        paper = row["paper"] or dict.fromkeys(("teacher", "self", "total"))
        cells = [row["teacher"], row["self"], row["total"], *(paper[k] for k in ("teacher", "self", "total"))]
        name = row["name"] + (" (simulated)" if row["simulated"] else "")
        numbers = " | ".join("" if c is None else f"{c:,}" for c in cells)
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def build_dataset(
    files: Sequence[Path], out: Path, *, title: str, refused: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """Write the data set; returns its counts. `refused` are traces that reviewers rejected
    (`review.refused`). The same completion of the same sample is kept once. A data set is made to be passed
    on: what was read of `local_only` pictures is left out. Raises DatasetError, ConversationError.
    """
    if not files:
        raise DatasetError("no conversations: run the cold start first, or name files of conversations")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("train-*.parquet"):
        old.unlink()
    excluded: Counter[str] = Counter()
    counted = _Counted()
    shards = []
    part = out / "excluded.jsonl.part"
    with part.open("w", encoding="utf-8") as file:
        kept = _kept(files, refused, excluded, file)
        for number, batch in enumerate(in_batches(_counting(kept, counted), SHARD)):
            shard = out / f"train-{number:05d}.parquet"
            write_conversations(shard, batch)
            shards.append(shard)
    part.replace(out / "excluded.jsonl")
    for number, shard in enumerate(shards):
        shard.rename(out / f"train-{number:05d}-of-{len(shards):05d}.parquet")
    rows = counted.rows()
    counts = {
        "conversations": rows[-1]["total"],
        "excluded": dict(excluded),
        "checks": {n: counted.checks[n] for n in CHECKS if counted.checks[n]},
        "composition": rows,
    }
    (out / "composition.json").write_text(json.dumps(counts, indent=1), encoding="utf-8")
    (out / "README.md").write_text(_card(title, counts, counted), encoding="utf-8")
    return counts


def _all(files: Iterable[Path]) -> Iterator[Conversation]:
    for path in files:
        yield from read_conversations(path)


def _kept(
    files: Sequence[Path],
    refused: Mapping[tuple[str, str], str],
    excluded: Counter[str],
    file: Any,
) -> Iterator[Conversation]:
    seen: set[bytes] = set()
    for c in _all(files):
        key = hashlib.blake2b(f"{c.sample_id}|{c.completion}".encode(), digest_size=12).digest()
        said = refused.get((c.sample_id, fingerprint(c.completion)))
        why = f"review: {said}" if said is not None else "stands twice" if key in seen else ""
        if not why and c.policy == "local_only":
            why = "local_only: stays in the run"
        seen.add(key)
        if not why:
            yield c
            continue
        excluded[why.partition(":")[0]] += 1
        text = "" if c.policy == "local_only" else c.completion
        row = {"sample_id": c.sample_id, "source": c.source, "reason": why, "text": text}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _counting(conversations: Iterable[Conversation], counted: _Counted) -> Iterator[Conversation]:
    for c in conversations:
        counted.add(c)
        yield c


def _card(title: str, counts: Mapping[str, Any], counted: _Counted) -> str:
    """Markdown with the YAML head that `datasets` reads."""
    simulated = any(r["simulated"] for r in counts["composition"])
    parts = [
        "---\nlicense: other\ntask_categories: [visual-question-answering]\nlanguage: [en]\nconfigs:\n"
        "- config_name: default\n  data_files: 'train-*.parquet'\n---",
        f"# {title}: three-level reasoning conversations",
        "Not for clinical use."
        + (" **Simulated data.**" if simulated else "")
        + " Made by `surgr1 cot build`; every number below is counted, none is typed. Pictures are named by"
        " path and are not part of this folder.",
        f"{counts['conversations']:,} conversations.",
        "## Composition",
        "The paper's Table 3 beside it; its numbers are of real data.",
        composition_table(counts["composition"]),
        "## Who wrote them",
        _numbers("source", counted.sources),
        "## Versions",
        _numbers("version", counted.versions),
        "## Checks passed",
        "\n".join(f"- {name} ({n:,}): {CHECKS[name]}" for name, n in counts["checks"].items()),
        "## Left out",
        "\n".join(f"- {why}: {n:,}" for why, n in counts["excluded"].items()) or "Nothing.",
        "## Data policy",
        _numbers("policy", counted.policies)
        + "\n\nLicences are those of the data sets the pictures come from (`surgr1 data licence`).",
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(head: str, counts: Counter[str]) -> str:
    rows = [f"| {name} | {n:,} |" for name, n in sorted(counts.items())]
    return "\n".join([f"| {head} | conversations |", "| --- | --: |", *rows])
