"""Samples to validated traces through a teacher: every trace is decided once and stored (`store`), a rejected
one is asked for again with the reasons, up to a limit; what was accepted becomes conversations.

Files in `out`: `traces.sqlite` (every trace with its checks), `accepted.parquet` (conversations),
`rejected.jsonl`. A synthesis that was stopped or killed asks only for what is undecided.
"""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.processes import interrupts_blocked
from surgr1.corpora.schema import Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.reasoning.trace import Trace, parse
from surgr1.synthesis.conversations import (
    Conversation,
    in_batches,
    trace_conversation,
    write_conversations,
)
from surgr1.synthesis.review import fingerprint
from surgr1.synthesis.store import Decision, Pathway, TraceStore
from surgr1.synthesis.teachers import Teacher
from surgr1.synthesis.validate import validate

Progress = Callable[[int, int], None]
_AT_ONCE = 64
"""Traces decided and stored together: what a kill makes to be asked (not paid) again."""
_MANY = 5_000
"""From so many samples on, traces are checked in processes of their own; starting them takes seconds."""
_UNANSWERED, _NONE_AT_ALL = 100, 3
"""So many requests in a row without an answer, or so many and no answer at all in a pass, mean that the
endpoint is away. They are not decided.
"""


class SynthesisError(SurgR1Error):
    """A synthesis that cannot go on; what was decided is stored."""


@dataclass(frozen=True)
class SynthesisReport:
    """Counts of one synthesis and where its files are. `reasons` counts rejected samples by the checks that
    their last trace failed.
    """

    accepted: int
    rejected: int
    reasons: dict[str, int]
    accepted_path: Path


@dataclass(frozen=True)
class Job:
    """One trace to be decided. `error` is what an engine reported instead of a trace."""

    sample: Sample
    image: PreparedImage
    text: str
    pathway: Pathway
    attempt: int
    source: str
    finish_reason: str = "stop"
    error: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


def decide(job: Job) -> Decision:
    """Check one trace."""
    sample = job.sample
    # JSON allows half a character, which no file takes.
    text = job.text.encode("utf-8", "replace").decode()
    checks: dict[str, bool] = {}
    reasons: tuple[str, ...]
    if job.error or not text.strip():
        reasons = (f"no trace: {job.error or 'an empty answer'}",)
    else:
        findings, _ = validate(text, sample, job.image, finish_reason=job.finish_reason)
        checks = {f.check: f.ok for f in findings}
        reasons = tuple(f"{f.check}: {f.detail}" for f in findings if not f.ok)
    return Decision(
        sample.sample_id,
        sample.dataset,
        str(sample.task),
        job.pathway,
        job.attempt,
        job.source,
        text,
        not reasons,
        checks.get("answer", False),
        checks,
        reasons,
        job.provenance,
    )


def decide_all(jobs: Iterable[Job], *, workers: int = 0) -> Iterator[Decision]:
    """Decisions in the order of the jobs, in `workers` processes (under 2: in this one), no more than a few
    batches ahead. Raises SynthesisError when a process was killed.
    """
    if workers < 2:
        yield from map(decide, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    waiting: deque[Future[list[Decision]]] = deque()
    try:
        for batch in in_batches(jobs, _AT_ONCE):
            with interrupts_blocked():
                waiting.append(pool.submit(_decide_batch, batch))
            while len(waiting) > 4 * workers or (waiting and waiting[0].done()):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise SynthesisError(
            "a process that checks traces was killed (out of memory?); run again to continue"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decide_batch(jobs: list[Job]) -> list[Decision]:
    return list(map(decide, jobs))


def synthesize(
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    teacher: Teacher,
    out: Path,
    *,
    max_attempts: int = 2,
    refused: Mapping[tuple[str, str], str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> SynthesisReport:
    """Ask the teacher for every sample that has no accepted trace and attempts left, then write what was
    accepted. `refused` are traces that a reviewer rejected (`review.refused`): they are written to the
    rejected. `progress` gets (samples decided for good, samples).

    Raises SynthesisError when the teacher's endpoint is away; BudgetError and others of the teacher's engine
    pass through. What was decided until then is stored.
    """
    with TraceStore(out) as store:
        for attempt in range(max_attempts):
            _ask(
                store, samples, images, teacher, attempt, last=attempt + 1 == max_attempts, progress=progress
            )
        reasons: Counter[str] = Counter()
        path = out / "accepted.parquet"
        kept = write_conversations(path, _written(store, samples, images, out, refused, reasons))
    return SynthesisReport(kept, len(samples) - kept, dict(reasons), path)


def _ask(
    store: TraceStore,
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    teacher: Teacher,
    attempt: int,
    *,
    last: bool,
    progress: Progress | None,
) -> None:
    """One pass: everything undecided that was tried `attempt` times."""
    states = store.states([s.sample_id for s in samples], "teacher")
    tries = {s.sample_id: states.get(s.sample_id, (0, False)) for s in samples}
    todo = [s for s in samples if tries[s.sample_id] == (attempt, False)]
    # Those tried more often were decided in an earlier run with more attempts.
    done = sum(accepted or n > attempt for n, accepted in tries.values())
    workers = (os.cpu_count() or 1) if len(todo) >= _MANY else 0
    jobs = _jobs(store, todo, images, teacher, attempt)
    batch: list[Decision] = []
    try:
        for decision in decide_all(jobs, workers=workers):
            batch.append(decision)
            done += decision.accepted or last
            if len(batch) == _AT_ONCE:
                store.put(batch)
                batch.clear()
                if progress:
                    progress(done, len(samples))
    finally:
        # Also what was decided before the teacher's engine stopped.
        store.put(batch)
    if progress:
        progress(done, len(samples))


def _jobs(
    store: TraceStore,
    todo: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    teacher: Teacher,
    attempt: int,
) -> Iterator[Job]:
    unanswered: list[Job] = []
    answered = 0
    for part in in_batches(todo, teacher.at_once):
        last = store.of([s.sample_id for s in part], "teacher") if attempt else {}
        failed = {sample_id: found[-1].reasons for sample_id, found in last.items()}
        for w in teacher.traces(part, images, attempt, failed):
            job = Job(
                w.sample,
                images[w.sample.sample_id],
                w.text,
                "teacher",
                attempt,
                teacher.name,
                w.finish_reason,
                w.error,
                w.provenance,
            )
            if w.finish_reason == "error":
                unanswered.append(job)
                if len(unanswered) >= _UNANSWERED:
                    raise _away(unanswered)
            else:
                answered += 1
                yield from unanswered
                unanswered.clear()
                yield job
    if not answered and len(unanswered) >= _NONE_AT_ALL:
        raise _away(unanswered)
    yield from unanswered


def _away(unanswered: Sequence[Job]) -> SynthesisError:
    return SynthesisError(
        f"{unanswered[-1].source} left {len(unanswered)} requests in a row unanswered, the last with:"
        f" {unanswered[-1].error}; run again to continue when it answers"
    )


def _written(
    store: TraceStore,
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    out: Path,
    refused: Mapping[tuple[str, str], str],
    reasons: Counter[str],
) -> Iterator[Conversation]:
    """Conversations of the accepted traces in sample order; the rejected go to their file meanwhile."""
    part = out / "rejected.jsonl.part"
    with part.open("w", encoding="utf-8") as rejected:
        for batch in in_batches(samples, _AT_ONCE):
            found = store.of([s.sample_id for s in batch], "teacher")
            for sample in batch:
                decision = found[sample.sample_id][-1]
                why = decision.reasons
                if decision.accepted:
                    made = conversation(sample, images[sample.sample_id], decision)
                    said = refused.get((sample.sample_id, fingerprint(made.completion)))
                    if said is None:
                        yield made
                        continue
                    why = (f"review: {said}",)
                reasons.update(sorted({w.partition(":")[0] for w in why}))
                row = {"sample_id": sample.sample_id, "attempt": decision.attempt, "reasons": why}
                rejected.write(json.dumps(row | {"text": decision.text}, ensure_ascii=False) + "\n")
    part.replace(out / "rejected.jsonl")


def conversation(sample: Sample, image: PreparedImage, decision: Decision) -> Conversation:
    """An accepted trace as training reads it, with where it comes from."""
    parsed = parse(decision.text)
    return trace_conversation(
        sample,
        image,
        Trace(parsed.levels, parsed.answer or ""),
        source=decision.source,
        checks=decision.checks,
        provenance={
            **decision.provenance,
            "pathway": decision.pathway,
            "attempt": str(decision.attempt),
        },
    )
