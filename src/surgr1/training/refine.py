"""Stage 4, iterative refinement (paper, Methods "Stage 4", Eq. 8 and Steps 1-3): data for the next round of
distillation.

Step 1 rolls the current policy out up to K times per training sample; a sample none of whose K answers is
right is *hard*. Rollouts of a sample end with the first that is right and sound: later ones would change
neither the hard set nor the trace that is kept. Step 2 keeps one right trace of every other sample as its
*predicted* pseudo-label and asks the teacher, under stage 2's constraints, for a *generated* pseudo-label of
every hard one. A right answer whose trace fails the checks that a teacher's trace must pass is re-tagged as
hard: the paper re-tags on the answer alone, but a right answer with a broken trace would teach the breakage.
Step 3, the fine-tuning on both, is `sft.run_sft` on the file written here.

Every rollout is in the run's ledger (never generated twice) and, with its verdict, in the iteration's store
of traces, like the teacher's (`synthesis.store`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.questions import sample_prompt
from surgr1.corpora.schema import Sample
from surgr1.engines.types import Completion, Engine, Request, Sampling
from surgr1.synthesis.conversations import in_batches, read_conversations, write_conversations
from surgr1.synthesis.review import fingerprint
from surgr1.synthesis.store import Decision, TraceStore
from surgr1.synthesis.synthesize import Job, conversation, decide, synthesize
from surgr1.synthesis.teachers import Teacher

Progress = Callable[[int, int], None]
_AT_ONCE = 64
"""Rollouts stored together."""


@dataclass
class RefineReport:
    """What one iteration did. Counts are training samples, but for `rollouts` (K), the rollouts `generated`
    and their `tokens`; `composition` is dataset -> {"teacher": n, "self": n}.
    """

    iteration: int
    samples: int
    rollouts: int
    generated: int = 0
    tokens: int = 0
    first_right: int = 0
    hard: int = 0
    retagged: int = 0
    self_generated: int = 0
    teacher_generated: int = 0
    rejected: int = 0
    composition: dict[str, dict[str, int]] = field(default_factory=dict)


def is_hard(predictions: Sequence[bool]) -> bool:
    """Eq. 8: no rollout of the sample is right. `predictions` holds one verdict per rollout."""
    return not any(predictions)


def judge(
    sample: Sample, completion: Completion, image: PreparedImage, *, k: int = 0, source: str = ""
) -> Decision:
    """Is the answer of rollout `k` right, and is its trace one that would be accepted from the teacher?"""
    job = Job(
        sample,
        image,
        completion.text,
        "self",
        k,
        source,
        completion.finish_reason,
        completion.error if completion.finish_reason in ("error", "blocked") else "",
    )
    return decide(job)


def rollout_requests(samples: Sequence[Sample], images: Mapping[str, PreparedImage]) -> list[Request]:
    """What the policy is asked: every sample's question, with reasoning."""
    return [
        Request(s.sample_id, sample_prompt(s, reasoning=True), (images[s.sample_id].path,), s.policy)
        for s in samples
    ]


def pass_rates(
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    engine: Engine,
    *,
    rollouts: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The share of right answers among `rollouts` of every sample, by its id."""
    by_id = {s.sample_id: s for s in samples}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, n=rollouts, seed=seed)
    rates: dict[str, float] = {}
    for request, answers in engine.generate(rollout_requests(samples, images), sampling):
        i = request.request_id
        rates[i] = sum(judge(by_id[i], a, images[i]).right for a in answers) / rollouts
        if progress:
            progress(len(rates), len(samples))
    return {s.sample_id: rates[s.sample_id] for s in samples}


def refine_iteration(
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    engine: Engine,
    teacher: Teacher,
    out_dir: Path,
    *,
    iteration: int,
    rollouts: int = 3,
    temperature: float = 0.9,
    max_new_tokens: int = 160,
    seed: int = 0,
    max_attempts: int = 2,
    refused: Mapping[tuple[str, str], str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> RefineReport:
    """One pass of Steps 1 and 2 over `samples`; writes `conversations.parquet` for Step 3 and returns the
    counts. Traces in `refused`, which a reviewer rejected, are in neither pathway.

    `images` maps `Sample.sample_id` to the prepared image. `engine` should be a LedgerEngine so that a killed
    pass continues. Files in `out_dir`: `traces.sqlite` (every rollout and every trace of the teacher, with
    their checks), `conversations.parquet` (both pathways, in sample order), and those of `synthesize`.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    by_id = {s.sample_id: s for s in samples}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + iteration)
    source = f"{engine.model}/iteration-{iteration}"
    report = RefineReport(iteration=iteration, samples=len(samples), rollouts=rollouts)
    rights: dict[str, list[bool]] = {s.sample_id: [] for s in samples}
    kept: dict[str, Decision] = {}
    open_requests, done = rollout_requests(samples, images), 0
    with TraceStore(out_dir) as store:
        for k in range(rollouts):
            undecided = []
            for batch in in_batches(engine.generate(open_requests, replace(sampling, first=k)), _AT_ONCE):
                decisions = []
                for request, (answer,) in batch:
                    i = request.request_id
                    decision = judge(by_id[i], answer, images[i], k=k, source=source)
                    decisions.append(decision)
                    rights[i].append(decision.right)
                    report.generated += 1
                    report.tokens += answer.tokens_out
                    if decision.accepted:
                        kept[i] = decision
                    elif k + 1 < rollouts:
                        undecided.append(request)
                        continue
                    done += 1
                    if progress:
                        progress(done, len(samples))
                store.put(decisions)
            open_requests = undecided

    hard = [s for s in samples if s.sample_id not in kept]
    report.first_right = sum(r[0] for r in rights.values())
    report.hard = sum(is_hard(rights[s.sample_id]) for s in hard)
    report.retagged = len(hard) - report.hard
    made = [conversation(s, images[s.sample_id], kept[s.sample_id]) for s in samples if s.sample_id in kept]
    predicted = {c.sample_id: c for c in made if (c.sample_id, fingerprint(c.completion)) not in refused}
    synthesis = synthesize(hard, images, teacher, out_dir, max_attempts=max_attempts, refused=refused)
    generated = {c.sample_id: c for c in read_conversations(synthesis.accepted_path)} if hard else {}
    report.self_generated, report.teacher_generated = len(predicted), len(generated)
    report.rejected = len(samples) - len(predicted) - len(generated)
    both = {**predicted, **generated}
    write_conversations(out_dir / "conversations.parquet", [both[i] for i in by_id if i in both])
    for pathway, written in (("self", predicted), ("teacher", generated)):
        for dataset, count in Counter(c.dataset for c in written.values()).items():
            report.composition.setdefault(dataset, {"self": 0, "teacher": 0})[pathway] = count
    return report
