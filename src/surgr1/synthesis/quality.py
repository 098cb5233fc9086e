"""What a file of reasoning holds: every check with counts and examples, who wrote it, how long and how varied
the traces are. Reads conversations (Parquet) or a store of traces with its rejected ones.
"""

import hashlib
import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from surgr1.ontology.procedures import load_procedure, procedure_names
from surgr1.reasoning.trace import parse
from surgr1.synthesis.conversations import read_conversations
from surgr1.synthesis.store import NAME, StoreError, TraceStore
from surgr1.synthesis.validate import CHECKS

SAMPLED = 2000
"""Traces whose n-grams are counted, drawn by a hash of their ids: distinct-n depends on the size of what is
counted, so that only equal numbers of traces can be compared.
"""
_EXAMPLES = 3


class _Trace(NamedTuple):
    sample_id: str
    dataset: str
    source: str
    text: str
    accepted: bool
    checks: dict[str, bool]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Diversity:
    """How varied `traces` traces are. `distinct`: n -> different n-grams of words over all of them (Li et
    al., NAACL 2016). `repeated`: share of traces whose levels stand word for word in an earlier one of the
    file. `templates`: different texts left when names, places and numbers are masked; `common` the share of
    traces with one of the ten most frequent.
    """

    traces: int
    distinct: dict[int, float]
    repeated: float
    templates: int
    common: float


def check_file(path: Path) -> dict[str, Any]:
    """{"traces", "accepted", "checks": {name: {"asks", "passed", "failed", "examples"}}, "no_trace",
    "composition": {dataset: {source: n}}, "words": {"least", "median", "most"}, "diversity"}; of a store, the
    diversity is that of the accepted traces. Raises ConversationError, StoreError naming the file.
    """
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    examples: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    composition: defaultdict[str, Counter[str]] = defaultdict(Counter)
    words: Counter[int] = Counter()
    kept = _Sample()
    traces = accepted = missing = 0
    for t in _traces(path):
        traces += 1
        accepted += t.accepted
        missing += not t.checks
        passed.update(name for name, ok in t.checks.items() if ok)
        failed.update(name for name, ok in t.checks.items() if not ok)
        for reason in t.reasons:
            name, _, detail = reason.partition(": ")
            if len(examples[name]) < _EXAMPLES:
                examples[name].append({"sample_id": t.sample_id, "found": detail, "text": t.text})
        if t.accepted:
            composition[t.dataset][t.source] += 1
            reasoning = _reasoning(t.text)
            words[len(reasoning.split())] += 1
            kept.add(t.sample_id, reasoning)
    names = [n for n in (*CHECKS, *sorted({*passed, *failed} - set(CHECKS))) if passed[n] + failed[n]]
    return {
        "traces": traces,
        "accepted": accepted,
        "no_trace": missing,
        "checks": {
            n: {"asks": CHECKS.get(n, ""), "passed": passed[n], "failed": failed[n], "examples": examples[n]}
            for n in names
        },
        "composition": {d: dict(sources) for d, sources in sorted(composition.items())},
        "words": _quantiles(words),
        "diversity": asdict(kept.diversity()),
    }


def _traces(path: Path) -> Iterator[_Trace]:
    store = path / NAME if path.is_dir() else path
    if store.suffix == ".sqlite":
        # Opening one would make it.
        if store.name != NAME or not store.is_file():
            raise StoreError(
                f"{path}: no store of traces; give a folder with {NAME}, or conversations (Parquet)"
            )
        with TraceStore(store.parent) as traces:
            for d in traces.every():
                yield _Trace(d.sample_id, d.dataset, d.source, d.text, d.accepted, dict(d.checks), d.reasons)
        return
    for c in read_conversations(path):
        yield _Trace(c.sample_id, c.dataset, c.source, c.completion, all(c.checks.values()), c.checks, ())


def _reasoning(text: str) -> str:
    levels = parse(text).levels
    return " ".join(levels[k] for k in sorted(levels))


def _quantiles(words: Counter[int]) -> dict[str, int]:
    if not words:
        return {}
    half, seen = words.total() / 2, 0
    for n in sorted(words):
        seen += words[n]
        if seen >= half:
            return {"least": min(words), "median": n, "most": max(words)}
    raise AssertionError("half of all is reached at the last")


class _Sample:
    """Reasoning texts drawn by a hash, and of all of them whether they came before."""

    def __init__(self) -> None:
        self._drawn: list[tuple[int, str, str]] = []
        self._seen: set[bytes] = set()
        self._all = self._again = 0

    def add(self, name: str, text: str) -> None:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        self._all += 1
        self._again += digest in self._seen
        self._seen.add(digest)
        # A heap of the smallest ranks: the largest of them, negated, is on top.
        rank = -int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
        if len(self._drawn) < SAMPLED:
            heapq.heappush(self._drawn, (rank, name, text))
        elif rank > self._drawn[0][0]:
            heapq.heapreplace(self._drawn, (rank, name, text))

    def diversity(self) -> Diversity:
        texts = [text for _, _, text in self._drawn]
        masked = Counter(map(_masked, texts))
        return Diversity(
            len(texts),
            {n: distinct(texts, n) for n in (1, 2, 3)},
            self._again / self._all if self._all else 0.0,
            len(masked),
            sum(n for _, n in masked.most_common(10)) / len(texts) if texts else 0.0,
        )


def distinct(texts: Iterable[str], n: int) -> float:
    """Different n-grams of words over all n-grams; 0 where there is none."""
    found: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
        total += len(grams)
        found.update(grams)
    return len(found) / total if total else 0.0


@lru_cache(maxsize=1)
def _names() -> re.Pattern[str]:
    """Everything a template leaves open: names of tools, structures, activities, places and numbers."""
    names = {"left", "right", "top", "bottom", "upper", "lower"}
    for name in procedure_names():
        known = load_procedure(name)
        names |= {s for e in (*known.tools, *known.tissues) for s in (e.name, *e.aliases)}
        names |= {a.name for a in (*known.phases, *known.steps, *known.actions)}
    ordered = sorted(names, key=lambda n: (-len(n), n))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, ordered))}|\d+)\b")


def _masked(text: str) -> str:
    return _names().sub("#", text.lower())
