"""Stage 4, iterative refinement (paper, Methods "Stage 4", Eq. 8 and Steps 1-3): data for the next round of
distillation.

Step 1 rolls the current policy out up to K times per training sample; a sample none of whose K answers is
right is *hard*. Rollouts of a sample end with the first that is right and sound: later ones would change
neither the hard set nor the trace that is kept. Step 2 keeps one right trace of every other sample as its
*predicted* pseudo-label and asks the teacher, under stage 2's constraints, for a *generated* pseudo-label of
every hard one. A right answer whose trace fails the checks that a teacher's trace must pass is re-tagged as
hard: the paper re-tags on the answer alone, but a right answer with a broken trace would teach the breakage.
Step 3, the fine-tuning on both, is `sft.run_sft` on the file written here.

Every rollout is in the run's ledger (never generated twice) and, with its verdict, in `rollouts.jsonl`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.questions import sample_prompt
from surgr1.corpora.schema import Sample
from surgr1.engines.types import Completion, Engine, Request, Sampling
from surgr1.reasoning.trace import Trace, parse
from surgr1.synthesis.conversations import (
    Conversation,
    read_conversations,
    trace_conversation,
    write_conversations,
)
from surgr1.synthesis.synthesize import synthesize
from surgr1.synthesis.teachers import Teacher
from surgr1.synthesis.validate import validate

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class Verdict:
    """What a rollout is worth: its canonical answer, how it ended, whether the answer is right, whether the
    trace would be accepted from the teacher, and every check.
    """

    prediction: str | None
    outcome: str
    right: bool
    sound: bool
    checks: dict[str, bool]


def judge(sample: Sample, completion: Completion, image: PreparedImage) -> Verdict:
    """Is the rollout's answer right, and is its trace one that would be accepted from the teacher?"""
    findings, value = validate(completion.text, sample, image, finish_reason=completion.finish_reason)
    checks = {f.check: f.ok for f in findings}
    return Verdict(value, completion.finish_reason, checks["answer"], all(checks.values()), checks)


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
    progress: Progress | None = None,
) -> RefineReport:
    """One pass of Steps 1 and 2 over `samples`; writes `conversations.parquet` for Step 3 and returns the
    counts.

    `images` maps `Sample.sample_id` to the prepared image. `engine` should be a LedgerEngine so that a killed
    pass continues. Files in `out_dir`: `rollouts.jsonl` (every rollout with its verdict), `teacher/` (the
    teacher's accepted and rejected traces), `conversations.parquet` (both pathways, in sample order).
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    by_id = {s.sample_id: s for s in samples}
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + iteration)
    completions: dict[str, list[Completion]] = {s.sample_id: [] for s in samples}
    judged: dict[str, list[Verdict]] = {s.sample_id: [] for s in samples}
    open_requests, done = rollout_requests(samples, images), 0
    for k in range(rollouts):
        undecided = []
        for request, (answer,) in engine.generate(open_requests, replace(sampling, first=k)):
            i = request.request_id
            completions[i].append(answer)
            judged[i].append(judge(by_id[i], answer, images[i]))
            if k + 1 < rollouts and not (judged[i][-1].right and judged[i][-1].sound):
                undecided.append(request)
            else:
                done += 1
                if progress:
                    progress(done, len(samples))
        open_requests = undecided

    report = RefineReport(iteration=iteration, samples=len(samples), rollouts=rollouts)
    predicted: dict[str, Conversation] = {}
    hard: list[Sample] = []
    part = out_dir / "rollouts.jsonl.part"
    with part.open("w", encoding="utf-8") as ledger:
        for sample in samples:
            verdicts = judged[sample.sample_id]
            for k, (completion, verdict) in enumerate(
                zip(completions[sample.sample_id], verdicts, strict=True)
            ):
                row = {"sample_id": sample.sample_id, "dataset": sample.dataset, "task": sample.task, "k": k}
                ledger.write(json.dumps({**row, "text": completion.text, **asdict(verdict)}) + "\n")
            right = [v.right for v in verdicts]
            report.generated += len(right)
            report.tokens += sum(c.tokens_out for c in completions[sample.sample_id])
            report.first_right += right[0]
            if is_hard(right):
                report.hard += 1
                hard.append(sample)
                continue
            kept = next((k for k, v in enumerate(verdicts) if v.right and v.sound), None)
            if kept is None:
                report.retagged += 1
                hard.append(sample)
                continue
            text = completions[sample.sample_id][kept].text
            parsed = parse(text)
            predicted[sample.sample_id] = trace_conversation(
                sample,
                images[sample.sample_id],
                Trace(parsed.levels, parsed.answer or ""),
                source=f"{engine.model}/iteration-{iteration}",
                checks=verdicts[kept].checks,
            )
    part.replace(out_dir / "rollouts.jsonl")

    synthesis = synthesize(hard, images, teacher, out_dir / "teacher")
    generated = {c.sample_id: c for c in read_conversations(synthesis.accepted_path)} if hard else {}
    report.self_generated, report.teacher_generated = len(predicted), len(generated)
    report.rejected = len(hard) - len(generated)
    both = {**predicted, **generated}
    write_conversations(out_dir / "conversations.parquet", [both[i] for i in by_id if i in both])
    for pathway, found in (("self", predicted), ("teacher", generated)):
        for dataset, count in Counter(c.dataset for c in found.values()).items():
            report.composition.setdefault(dataset, {"self": 0, "teacher": 0})[pathway] = count
    return report
