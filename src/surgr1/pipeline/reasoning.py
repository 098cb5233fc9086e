"""What `surgr1 cot` does with a recipe or a run folder: what a teacher would take, its traces, their review,
and the data set they make.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from surgr1.corpora.schema import Sample, from_row
from surgr1.engines.types import Request
from surgr1.pipeline.recipe import Recipe, RecipeError
from surgr1.pipeline.stages import TRACES, Run, budget_of, conversation_files, wire_of
from surgr1.synthesis.conversations import Conversation, in_batches, read_conversations
from surgr1.synthesis.dataset import DatasetError, build_dataset
from surgr1.synthesis.exports import Format, export
from surgr1.synthesis.review import Agreement, agreement, groups_of, make_queue, read_reviews, refused
from surgr1.synthesis.review_server import ReviewServer
from surgr1.synthesis.store import NAME, Decision, TraceStore
from surgr1.synthesis.synthesize import SynthesisReport, synthesize
from surgr1.synthesis.teachers import teacher_requests, teacher_sampling


def synthesize_coldstart(recipe: Recipe, folder: Path, console: Console) -> SynthesisReport:
    """Ask the cold-start teacher, in the folder where the run's second stage looks for its traces."""
    run = Run(recipe, folder, console)
    samples = run.coldstart_samples()
    assert recipe.coldstart is not None
    spec = recipe.coldstart.teacher
    images = run.images(samples)
    with run.teacher(spec) as teacher, run.bar("teacher's traces") as advance:
        return synthesize(
            samples,
            images,
            teacher,
            run.traces(spec),
            max_attempts=spec.attempts,
            refused=run.refused,
            progress=advance,
        )


def dry_run(recipe: Recipe, folder: Path, console: Console, *, latency_s: float) -> dict[str, Any]:
    """What the cold-start teacher would take, before anything is sent: samples, those decided already, and
    for a model the calls that the ledger lacks, tokens, cost (US dollars) and time. The next attempt of each
    sample only: every trace that is rejected then is one call more.
    """
    from surgr1.engines.budget import estimate
    from surgr1.engines.ledger import Ledger, request_key

    run = Run(recipe, folder, console)
    samples = run.coldstart_samples()
    assert recipe.coldstart is not None
    spec = recipe.coldstart.teacher
    states: dict[str, tuple[int, bool]] = {}
    tried: dict[str, list[Decision]] = {}
    # Another teacher's traces will be cleared.
    if run.holds_traces(spec) and (folder / TRACES / NAME).is_file():
        with TraceStore(folder / TRACES) as store:
            states = store.states([s.sample_id for s in samples], "teacher")
            tried = store.of([s.sample_id for s in samples], "teacher")
    open_samples = [s for s in samples if not _decided(states.get(s.sample_id), spec.attempts)]
    failed = {sample_id: decisions[-1].reasons for sample_id, decisions in tried.items()}
    found: dict[str, Any] = {
        "teacher": spec.model or str(spec.path or "offline"),
        "samples": len(samples),
        "decided": len(samples) - len(open_samples),
    }
    if spec.kind == "offline":
        return found | {"calls": 0, "cost": 0.0}
    images = run.images(open_samples)
    # The attempt changes the seed alone, which no estimate depends on.
    sampling = teacher_sampling(spec.max_new_tokens, spec.temperature, attempt=0)
    # A local model is not opened for a dry run: what the ledger has of it is not known.
    identity = wire_of(spec).identity if spec.kind in ("api", "batch") else ""
    known = 0

    def lacking(ledger: Ledger) -> Iterator[Request]:
        nonlocal known
        for part in in_batches(open_samples, 256):
            for request in teacher_requests(part, images, run.statistics, failed):
                attempt, _ = states.get(request.request_id, (0, False))
                asked = teacher_sampling(spec.max_new_tokens, spec.temperature, attempt=attempt)
                if identity and ledger.get(request_key(identity, request, asked), 1) is not None:
                    known += 1
                else:
                    yield request

    with closing(Ledger(folder / "ledger.sqlite")) as ledger, run.bar("counting tokens") as advance:
        counted = 0

        def step() -> None:
            nonlocal counted
            counted += 1
            advance(counted, len(open_samples))

        price = budget_of(spec).price
        what = estimate(
            lacking(ledger),
            sampling,
            price,
            batch=spec.kind == "batch",
            concurrency=spec.concurrency,
            latency_s=latency_s if spec.kind == "api" else None,
            requests_per_minute=spec.requests_per_minute,
            tokens_per_minute=spec.tokens_per_minute,
            progress=step,
        )
    return (
        found
        | asdict(what)
        | {
            "answered_in_ledger": known,
            "latency_s": latency_s,
            "price": price.model_dump(mode="json") if price else None,
            "budget": {"money": spec.money, "tokens": spec.tokens},
        }
    )


def _decided(state: tuple[int, bool] | None, attempts: int) -> bool:
    return state is not None and (state[1] or state[0] >= attempts)


def every_conversation(paths: Iterable[Path]) -> Iterator[Conversation]:
    """Conversations of run folders and files. Raises DatasetError, ConversationError."""
    for path in paths:
        files = conversation_files(path) if path.is_dir() else [path]
        if path.is_dir() and not files:
            files = sorted(path.glob("train-*.parquet"))
        if not files:
            raise DatasetError(f"{path}: neither a run with reasoning conversations nor a data set of them")
        for file in files:
            yield from read_conversations(file)


def build_run(run: Path, out: Path, exports: Sequence[str]) -> dict[str, Any]:
    """A run's conversations as a data set, and in the formats of other trainers. Raises DatasetError."""
    if strange := sorted(set(exports) - set(get_args(Format))):
        raise DatasetError(f"--export {', '.join(strange)}: one of {', '.join(get_args(Format))}")
    files = conversation_files(run)
    if not files:
        raise DatasetError(
            f"{run}: a run without reasoning conversations; run its cold start, or `surgr1 cot synthesize`,"
            " first"
        )
    counts = build_dataset(
        files, out, title=run.resolve().name, refused=refused(read_reviews(run / "reviews"))
    )
    for to in get_args(Format):
        if to in exports:
            export(every_conversation([out]), out / to, to=to, name="train")
    return counts


def review_server(
    run: Path,
    reviewer: str,
    *,
    others: Sequence[str],
    stage: str,
    double: float,
    limit: int | None,
    port: int,
) -> ReviewServer:
    """A server for one reviewer of a run's traces. Raises ReviewError, RecipeError."""
    path = run / (
        TRACES / "accepted.parquet" if stage == "coldstart" else Path(stage) / "conversations.parquet"
    )
    if not path.is_file():
        raise RecipeError(
            f"{path}: not there; --stage is coldstart or refine/iteration-N of a run that has it"
        )
    queue = make_queue(path, reviewer, reviewers=others, double=double, limit=limit)
    samples = samples_of(run / "data", queue.ids)
    return ReviewServer(queue, samples, run / "reviews", port=port)


def samples_of(corpus: Path, sample_ids: Iterable[str]) -> dict[str, Sample]:
    """Samples of a built corpus by id; those it lacks are left out."""
    import pyarrow as pa

    wanted = pa.array(list(sample_ids), pa.string())
    found: dict[str, Sample] = {}
    for path in sorted(corpus.glob("*/part-*.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["sample_id"])["sample_id"]
                mask = pc.is_in(ids, value_set=wanted)
                if pc.any(mask).as_py():
                    rows = file.read_row_group(group).filter(mask).to_pylist()
                    found |= {row["sample_id"]: from_row(row) for row in rows}
    return found


def reviewers_agreement(run: Path) -> Agreement:
    """How far the reviewers of a run agree. Raises RecipeError, ReviewError."""
    if not run.is_dir():
        raise RecipeError(f"{run}: no such run folder; name the one that was reviewed")
    reviews = read_reviews(run / "reviews")
    groups: dict[str, tuple[str, ...]] = {}
    for path in conversation_files(run):
        groups = groups_of(path, {r.sample_id for r in reviews}) | groups
    return agreement(reviews, groups)
