"""One function per stage. Each reads what earlier stages left in the run folder and returns counts; `run`
writes the manifests.

Layout of a run: `sim/` native trees · `data/` samples · `images/` prepared pictures · `base/` `sft/`
`coldstart/` `grpo/` `refine/` training · `bench/<stage>/` predictions and scores · `report.html`.
"""

import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from surgr1.corpora.build import build, corpus_samples, statistics_of
from surgr1.corpora.grid import PreparedImage, prepare_image
from surgr1.corpora.questions import sample_prompt
from surgr1.corpora.schema import Role, Sample
from surgr1.corpora.select import balanced
from surgr1.engines.types import Engine
from surgr1.ontology.errors import SurgR1Error
from surgr1.pipeline.manifest import code_commit, read_manifest, stage_key, timestamp, write_json
from surgr1.pipeline.progress import Advance, progress_bar
from surgr1.pipeline.recipe import ColdStart, Difficulty, Recipe, RecipeError, Selection, TeacherSpec
from surgr1.synthesis.conversations import read_conversations
from surgr1.synthesis.dataset import pathway_of
from surgr1.synthesis.plan import make_plan, read_plan, read_quotas, table_3
from surgr1.synthesis.review import read_reviews, refused
from surgr1.synthesis.statistics import Statistics, compute_statistics, write_statistics
from surgr1.synthesis.teachers import ModelTeacher, Teacher
from surgr1.training.grpo import GRPOStage
from surgr1.training.launch import train
from surgr1.training.policy import open_policy
from surgr1.training.sft import SFTStage
from surgr1.training.stage import TrainResult

if TYPE_CHECKING:
    from surgr1.engines.batch_engine import BatchEngine
    from surgr1.engines.budget import Budget
    from surgr1.engines.ledger import Ledger
    from surgr1.engines.openai_engine import OpenAIEngine
    from surgr1.engines.wire import Wire

Counts = dict[str, float]
TRACES = Path("coldstart") / "traces"
"""Where the cold start's teacher writes, in a run folder."""
SALTS = {"sft": 1, "coldstart": 2, "grpo": 3, "refine": 4}
"""Every stage draws its own samples; every iteration of refinement too (from its salt upwards)."""


@dataclass
class Run:
    """A recipe in a folder."""

    recipe: Recipe
    folder: Path
    console: Console

    def bar(self, label: str) -> AbstractContextManager[Advance]:
        """A progress bar: `with run.bar("label") as advance`."""
        return progress_bar(self.console, label)

    @cached_property
    def samples(self) -> list[Sample]:
        """Every sample of the built data, in source order."""
        found: list[Sample] = []
        for source in self.recipe.sources:
            self.built(source.dataset)
            found += corpus_samples(self.folder / "data", source.dataset)
        return found

    def built(self, dataset: str) -> dict[str, Any]:
        """What the build says of a dataset (`source.json`). Raises RecipeError where it is not built."""
        body = statistics_of(self.folder / "data", dataset)
        if body is None:
            raise RecipeError(
                f"{self.folder / 'data' / dataset}: the data is not built; run `surgr1 data build` or the"
                " whole recipe first"
            )
        return body

    @property
    def fingerprints(self) -> dict[str, str]:
        """Dataset -> the fingerprint of its build, in source order. Raises RecipeError."""
        return {s.dataset: str(self.built(s.dataset)["fingerprint"]) for s in self.recipe.sources}

    @property
    def train(self) -> list[Sample]:
        return [s for s in self.samples if s.role == "train"]

    def select(self, selection: Selection, salt: int) -> list[Sample]:
        """The training samples of a stage: balanced, and another draw for every stage."""
        pool = [s for s in self.train if not selection.tasks or s.task in selection.tasks]
        if not pool:
            raise RecipeError(
                f"no training sample has a task of {', '.join(selection.tasks) or 'any kind'}; see"
                " data/statistics.json"
            )
        return balanced(pool, selection.limit, self.recipe.seed + salt)

    def images(self, samples: Iterable[Sample]) -> dict[str, PreparedImage]:
        """Prepared pictures by sample id; each picture is prepared once."""
        roots = {s.dataset: s.picture_root for s in self.recipe.sources}
        budget = self.recipe.images
        made: dict[Path, PreparedImage] = {}
        found: dict[str, PreparedImage] = {}
        samples = list(samples)
        with self.bar("preparing pictures") as advance:
            for k, sample in enumerate(samples, start=1):
                path = roots[sample.dataset] / sample.image
                if path not in made:
                    made[path] = prepare_image(
                        path,
                        self.folder / "images",
                        min_tokens=budget.min_tokens,
                        max_tokens=budget.max_tokens,
                    )
                found[sample.sample_id] = made[path]
                advance(k, len(samples))
        return found

    @property
    def base(self) -> Path:
        """The base model's folder."""
        return self.recipe.model.path or self.folder / "base" / "model"

    def adapter(self, stage: str) -> Path | None:
        """The adapter a stage starts from: the last one trained before it."""
        order = ("sft", "coldstart", "grpo", "refine")
        for name in reversed(order[: order.index(stage)]):
            if getattr(self.recipe, name) is not None:
                return self.adapter_of(name)
        return None

    def adapter_of(self, stage: str) -> Path | None:
        """The adapter a stage produced (None for the base)."""
        return None if stage == "base" else self.folder / stage / "adapter"

    def coldstart_samples(self) -> list[Sample]:
        """The samples that the teacher is asked for: balanced, or by quotas (`plan/`, drawn once)."""
        section = self.recipe.coldstart
        if section is None:
            raise RecipeError(f"recipe {self.recipe.name} has no coldstart section, so no teacher")
        if section.select is not None:
            return self.select(section.select, SALTS["coldstart"])
        return read_plan(self.planned(section))

    def planned(self, section: ColdStart) -> Path:
        """The folder of the sampling plan; drawn anew where the data or the quotas have changed."""
        place = self.folder / "plan"
        quotas = section.quotas
        if quotas == "table-3":
            quotas = table_3()
        elif isinstance(quotas, Path):
            quotas = read_quotas(quotas)
        assert isinstance(quotas, tuple)
        built = self.fingerprints
        key = stage_key(
            "plan",
            {
                "quotas": [q.model_dump(mode="json") for q in quotas],
                "near": section.near_duplicates,
                "seed": self.recipe.seed,
            },
            built,
        )
        marker = place / ".key"
        if not marker.is_file() or marker.read_text(encoding="utf-8") != key:
            roots = {s.dataset: s.picture_root for s in self.recipe.sources}
            with self.bar("sampling plan") as advance:
                make_plan(
                    self.folder / "data",
                    list(built),
                    quotas,
                    place,
                    pictures=roots if section.near_duplicates else None,
                    seed=self.recipe.seed,
                    progress=advance,
                )
            marker.write_text(key, encoding="utf-8")
        return place

    def traces(self, spec: TeacherSpec) -> Path:
        """The folder of the cold start's traces, cleared of what another teacher has written or was written
        of other labels. Other samples, more attempts or another training keep what is there.
        """
        place = self.folder / TRACES
        if not self.holds_traces(spec):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            (place / ".key").write_text(self._traces_key(spec), encoding="utf-8")
        return place

    def holds_traces(self, spec: TeacherSpec) -> bool:
        """Whether the traces that are there are this teacher's, of these labels."""
        marker = self.folder / TRACES / ".key"
        return marker.is_file() and marker.read_text(encoding="utf-8") == self._traces_key(spec)

    def _traces_key(self, spec: TeacherSpec) -> str:
        from surgr1.synthesis.offline import OfflineTeacher

        teacher = spec.model_dump(mode="json", exclude={"attempts"})
        if spec.kind == "offline":
            teacher["name"] = OfflineTeacher.name
        images = self.recipe.images.model_dump(mode="json")
        return stage_key("traces", {"teacher": teacher, "images": images}, self.fingerprints)

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Co-occurrence of the training labels, by procedure; written to knowledge.json."""
        names = [s.dataset for s in self.recipe.sources]
        with self.bar("co-occurrence statistics") as advance:
            found = compute_statistics(self.folder / "data", names, advance)
        write_statistics(self.folder / "knowledge.json", found)
        return found

    @property
    def refused(self) -> dict[tuple[str, str], str]:
        """Traces that reviewers of this run rejected."""
        return refused(read_reviews(self.folder / "reviews"))

    @contextmanager
    def teacher(self, spec: TeacherSpec) -> Iterator[Teacher]:
        """Who writes traces; leaving the block frees what it holds. Answers of models are in the ledger."""
        from surgr1.engines.ledger import Ledger, LedgerEngine
        from surgr1.synthesis.offline import OfflineTeacher

        if spec.kind == "offline":
            yield OfflineTeacher()
            return
        with closing(Ledger(self.folder / "ledger.sqlite")) as ledger:
            if spec.path is not None:
                with open_policy(spec.path, None, spec.generation, dtype=spec.dtype) as engine:
                    yield self.model_teacher(spec, LedgerEngine(engine, ledger))
            elif spec.kind == "batch":
                yield self.model_teacher(spec, batch_engine(spec, ledger, self._say))
            else:
                yield self.model_teacher(spec, LedgerEngine(live_engine(spec, ledger), ledger))

    def model_teacher(self, spec: TeacherSpec, engine: Engine) -> ModelTeacher:
        """A model as teacher, told what this run's training labels say."""
        return ModelTeacher(
            engine,
            statistics=self.statistics,
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            # A batch may wait a day: as few of them as possible.
            at_once=50_000 if spec.kind == "batch" else 4096,
        )

    def _say(self, line: str) -> None:
        self.console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)

    def fit(
        self,
        label: str,
        stage: SFTStage | GRPOStage,
        *,
        adapter_in: Path | None,
        conversations: Path,
        out: Path,
        model_dir: Path | None = None,
    ) -> TrainResult:
        """Train a stage with the recipe's launcher and tracker, under a bar with a line per logged step."""
        with self.bar(label) as advance:
            return train(
                stage,
                model_dir=model_dir or self.base,
                adapter_in=adapter_in,
                conversations=conversations,
                out=out,
                launcher=self.recipe.launcher,
                progress=advance,
                say=self._say,
                tracking=self.recipe.tracking,
            )

    @contextmanager
    def engine(self, adapter: Path | None) -> Iterator[Engine]:
        """The policy as an engine, its answers in the run's ledger."""
        from surgr1.engines.ledger import Ledger, LedgerEngine

        recipe = self.recipe
        with (
            closing(Ledger(self.folder / "ledger.sqlite")) as ledger,
            open_policy(self.base, adapter, recipe.generation, dtype=recipe.model.dtype) as engine,
        ):
            yield LedgerEngine(engine, ledger)


def simulate(run: Run) -> Counts:
    """Simulated operations as native trees."""
    from surgr1.simulator.world import simulate as write_world

    plan = run.recipe.sim_plan
    if plan is None:
        raise RecipeError("the recipe has no `simulate` section")
    with run.bar("simulating operations") as advance:
        report = write_world(run.folder / "sim", plan, workers=os.cpu_count() or 2, progress=advance)
    return {"frames": report.frames, "frames_per_second": round(report.frames_per_second, 1)}


def data(run: Run) -> Counts:
    """Native trees to samples, checked for duplicates and leaks."""
    with run.bar("reading datasets") as advance:
        found = build(
            run.recipe.sources,
            run.folder / "data",
            isolation=run.recipe.isolation,
            max_rejects=run.recipe.max_rejects,
            workers=os.cpu_count() or 2,
            progress=advance,
        )
    run.__dict__.pop("samples", None)
    return {"samples": sum(found["dataset"].values()), "frames": sum(found["frames"].values())}


def base(run: Run) -> Counts:
    """The nano base: tokenizer, random weights, full training on pictures described and texts."""
    from surgr1.synthesis.conversations import read_conversations, write_conversations
    from surgr1.synthesis.pretraining import descriptions, echoes, observations, readings
    from surgr1.training.nano import build_nano

    nano = run.recipe.model.nano
    if nano is None:
        raise RecipeError("model.path is given; there is no base to build")
    folder, budget = run.folder / "base", run.recipe.images
    path = folder / "conversations.parquet"
    if not path.is_file():
        images = run.images(run.train)
        cache, spread = run.folder / "images", balanced(run.train, 4000, run.recipe.seed)
        write_conversations(
            path,
            [
                *descriptions(run.train, images),
                *observations(run.train, images, nano.observations),
                *echoes(spread, images, cache, nano.echoes),
                *readings(run.train, images, cache, nano.readings),
            ],
        )
    if not (folder / "init" / "nano.json").is_file():
        texts = [f"{c.prompt}\n{c.completion}" for c in read_conversations(path)]
        texts += [sample_prompt(s, reasoning=r) for s in run.train[::5] for r in (False, True)]
        build_nano(
            folder / "init",
            texts,
            nano.config,
            min_tokens=budget.min_tokens,
            max_tokens=budget.max_tokens,
            seed=run.recipe.seed,
        )
    result = run.fit(
        "base: full pre-training of the nano model",
        nano.pretrain,
        model_dir=folder / "init",
        adapter_in=None,
        conversations=path,
        out=folder,
    )
    return _trained(result) | {
        "parameters": json.loads((folder / "init" / "nano.json").read_text(encoding="utf-8"))["parameters"]
    }


def _trained(result: TrainResult) -> Counts:
    return {"steps": result.steps, "final": round(result.final_loss, 4)}


def sft(run: Run) -> Counts:
    """Stage 1: supervised fine-tuning on VQA labels."""
    from surgr1.synthesis.conversations import vqa_conversation, write_conversations

    section = run.recipe.sft
    assert section is not None
    path = run.folder / "sft" / "conversations.parquet"
    if not path.is_file():
        samples = run.select(section.select, SALTS["sft"])
        images = run.images(samples)
        write_conversations(path, [vqa_conversation(s, images[s.sample_id]) for s in samples])
    return _trained(
        run.fit(
            "stage 1: SFT on VQA labels",
            section.stage,
            adapter_in=None,
            conversations=path,
            out=run.folder / "sft",
        )
    )


def coldstart(run: Run) -> Counts:
    """Stage 2: cold start on the teacher's three-level traces."""
    from surgr1.synthesis.synthesize import synthesize

    section = run.recipe.coldstart
    assert section is not None
    samples = run.coldstart_samples()
    images = run.images(samples)
    with run.teacher(section.teacher) as teacher, run.bar("stage 2: teacher's traces") as advance:
        report = synthesize(
            samples,
            images,
            teacher,
            run.traces(section.teacher),
            max_attempts=section.teacher.attempts,
            refused=run.refused,
            progress=advance,
        )
    if not report.accepted:
        raise SurgR1Error(
            f"the teacher's {len(samples)} traces were all rejected: {report.reasons}; see"
            " coldstart/traces/rejected.jsonl"
        )
    result = run.fit(
        "stage 2: cold start",
        section.stage,
        adapter_in=run.adapter("coldstart"),
        conversations=report.accepted_path,
        out=run.folder / "coldstart",
    )
    return _trained(result) | {"accepted": report.accepted, "rejected": report.rejected}


def grpo(run: Run) -> Counts:
    """Stage 3: GRPO with entropy-weighted tokens on raw labels."""
    from surgr1.reasoning.trace import Trace
    from surgr1.synthesis.conversations import trace_conversation, write_conversations

    section, adapter = run.recipe.grpo, run.adapter("grpo")
    assert section is not None and adapter is not None
    path = run.folder / "grpo" / "prompts.parquet"
    if not path.is_file():
        samples = run.select(section.select, SALTS["grpo"])
        images = run.images(samples)
        if section.difficulty:
            samples = _learnable(run, samples, images, section.difficulty, adapter)
        # Only the prompt and the label are used: GRPO sees no trace.
        write_conversations(
            path,
            [
                trace_conversation(s, images[s.sample_id], Trace({}, ""), source="label", checks={})
                for s in samples
            ],
        )
    result = run.fit(
        "stage 3: GRPO", section.stage, adapter_in=adapter, conversations=path, out=run.folder / "grpo"
    )
    return {"steps": result.steps, "reward": round(result.final_loss, 4)}


def _learnable(
    run: Run,
    samples: list[Sample],
    images: dict[str, PreparedImage],
    difficulty: Difficulty,
    adapter: Path,
) -> list[Sample]:
    """The samples that the cold-started policy gets right now and then; rates go to grpo/pass_rates.json."""
    from surgr1.training.refine import pass_rates

    section = run.recipe.grpo
    assert section is not None
    with run.engine(adapter) as engine, run.bar("stage 3: pass rates") as advance:
        rates = pass_rates(
            samples,
            images,
            engine,
            rollouts=difficulty.rollouts,
            temperature=section.stage.temperature,
            max_new_tokens=section.stage.max_new_tokens,
            seed=run.recipe.seed,
            progress=advance,
        )
    write_json(run.folder / "grpo" / "pass_rates.json", rates)
    kept = [s for s in samples if difficulty.least <= rates[s.sample_id] <= difficulty.most]
    if not kept:
        raise RecipeError(
            f"grpo.difficulty: of {len(samples)} prompts none is answered right in a share between"
            f" {difficulty.least} and {difficulty.most} of {difficulty.rollouts} tries; see"
            " grpo/pass_rates.json"
        )
    return kept


def refine(run: Run) -> Counts:
    """Stage 4: rollouts, pseudo-labels of both pathways, distillation, up to N times."""
    from surgr1.training.refine import refine_iteration

    section, start = run.recipe.refine, run.adapter("refine")
    assert section is not None and start is not None
    counts: Counter[str] = Counter()
    stage, adapter = run.folder / "refine", start
    # The adapters so far with their score on the validation videos.
    measured: list[tuple[float, Path]] = []
    if section.early_stop:
        measured.append((_validated(run, start, stage / "iteration-0"), start))
    for iteration in range(1, section.iterations + 1):
        folder = stage / f"iteration-{iteration}"
        samples = run.select(section.select, SALTS["refine"] + iteration - 1)
        summary = folder / "report.json"
        if not summary.is_file():
            images = run.images(samples)
            with (
                run.engine(adapter) as engine,
                run.teacher(section.teacher) as teacher,
                run.bar(f"stage 4.{iteration}: {section.rollouts} rollouts per sample") as advance,
            ):
                report = refine_iteration(
                    samples,
                    images,
                    engine,
                    teacher,
                    folder,
                    iteration=iteration,
                    rollouts=section.rollouts,
                    temperature=section.temperature,
                    max_new_tokens=section.max_new_tokens,
                    seed=run.recipe.seed,
                    max_attempts=section.teacher.attempts,
                    refused=run.refused,
                    progress=advance,
                )
            write_json(summary, asdict(report))
        found = json.loads(summary.read_text(encoding="utf-8"))
        counts.update(
            {k: found[k] for k in ("hard", "retagged", "self_generated", "teacher_generated", "rejected")}
        )
        if not (folder / "adapter" / "adapter_config.json").is_file():
            run.fit(
                f"stage 4.{iteration}: distillation",
                section.stage,
                adapter_in=adapter,
                conversations=folder / "conversations.parquet",
                out=folder,
            )
        adapter = folder / "adapter"
        counts["iterations"] += 1
        if section.early_stop:
            measured.append((_validated(run, adapter, folder), adapter))
            if measured[-1][0] <= measured[-2][0]:
                break
    if measured:
        adapter = max(measured, key=lambda m: m[0])[1]
    shutil.rmtree(stage / "adapter", ignore_errors=True)
    shutil.copytree(adapter, stage / "adapter")
    return dict(counts)


def _validated(run: Run, adapter: Path, folder: Path) -> float:
    """The public Arena Score of a policy on the validation videos."""
    scores = _measure(run, adapter, bench_samples(run, ("validation",)), folder / "validation", "validation")
    return float(scores["arena"]["public"]["value"])


def bench(run: Run, stage: str, *, probed: bool = False) -> Counts:
    """SurgBench after one stage: predictions on test and external samples, then scores; `probed` also asks
    what the answers hang on (`bench.probes`).
    """
    samples = bench_samples(run, ("test", "external"))
    reasoning = stage not in ("base", "sft")
    folder = run.folder / "bench" / stage
    scores = _measure(
        run,
        run.adapter_of(stage),
        samples,
        folder,
        stage,
        reasoning=reasoning,
        probes=run.recipe.bench.probes if probed and reasoning else 0,
    )
    return {
        "predictions": len(samples),
        **{f"arena_{g}": round(a["value"], 2) for g, a in scores["arena"].items()},
    }


def _measure(
    run: Run,
    adapter: Path | None,
    samples: list[Sample],
    folder: Path,
    stage: str,
    *,
    reasoning: bool = True,
    probes: int = 0,
) -> dict[str, Any]:
    """Predictions and scores of a policy, written to `folder`."""
    from surgr1.bench.predictions import read_predictions
    from surgr1.bench.probes import run_probes
    from surgr1.bench.reasoning_metrics import count_cooccurrence
    from surgr1.bench.runner import predict
    from surgr1.engines.types import Sampling
    from surgr1.pipeline.measure import measure

    section = run.recipe.bench
    if not samples:
        raise RecipeError(
            f"{stage}: no sample to measure on belongs to a task card; see data/statistics.json"
        )
    images = run.images(samples)
    predictions, sampling = folder / "predictions.jsonl", Sampling(max_new_tokens=section.max_new_tokens)
    with run.engine(adapter) as engine:
        with run.bar(f"SurgBench: {stage}") as advance:
            predict(
                samples,
                images,
                engine,
                predictions,
                reasoning=reasoning,
                sampling=sampling,
                progress=advance,
            )
        if probes:
            rows = list(read_predictions(predictions))
            with run.bar(f"SurgBench: causal probes, {stage}") as advance:
                found = run_probes(
                    rows, engine, sampling, folder, n=probes, draws=section.draws, progress=advance
                )
            write_json(folder / "probes.json", found)
    truth = run.folder / "sim" / "truth"
    return measure(
        predictions,
        name=stage,
        draws=section.draws,
        seed=run.recipe.seed,
        seen_centres={s.centre for s in run.train},
        cooccurrence=count_cooccurrence(run.train) if reasoning else None,
        truth=truth if truth.is_dir() else None,
    )


def bench_samples(run: Run, roles: tuple[Role, ...]) -> list[Sample]:
    """The evaluation list of videos of these roles: every card's frames, asked in the card's words."""
    from surgr1.bench.cards import card_of
    from surgr1.pipeline.evaluate import frame_lists

    found = frame_lists(run.samples, limit=run.recipe.bench.limit_per_card, seed=run.recipe.seed, roles=roles)
    return [card.asked(s) for s in found if (card := card_of(s.dataset, s.task)) is not None]


def training_logs(folder: Path, stage: str) -> list[Path]:
    """The logs that a stage of a run has written so far; refinement has one per iteration."""
    if stage != "refine":
        return list(folder.glob(f"{stage}/log.jsonl"))
    found = folder.glob("refine/iteration-*/log.jsonl")
    return sorted(found, key=lambda p: int(p.parent.name.rpartition("-")[2]))


def training_page(folder: Path) -> Path:
    """`folder`/training.html for what a run has trained so far. Raises RecipeError when that is nothing."""
    from surgr1.training.page import StageLog, write_page

    logs = [
        StageLog(f"{title}, iteration {k}" if stage == "refine" else title, log.parent)
        for stage, title in STAGE_TITLES.items()
        for k, log in enumerate(training_logs(folder, stage), start=1)
    ]
    if not logs:
        raise RecipeError(f"{folder}: no stage has logged a training step; run the recipe first")
    simulated = all(p.parent.name.startswith("sim-") for p in (folder / "data").glob("*/source.json"))
    return write_page(folder.name, logs, folder / "training.html", simulated=simulated)


STAGE_TITLES = {
    "base": "Base",
    "sft": "Stage 1 SFT",
    "coldstart": "Stage 2 cold start",
    "grpo": "Stage 3 GRPO",
    "refine": "Stage 4 refinement",
}


def conversation_files(folder: Path) -> list[Path]:
    """The reasoning conversations that a run has written so far: cold start, then iteration by iteration."""
    cold = folder / TRACES / "accepted.parquet"
    found = folder.glob("refine/iteration-*/conversations.parquet")
    refined = sorted(found, key=lambda p: int(p.parent.name.rpartition("-")[2]))
    return [*([cold] if cold.is_file() else []), *refined]


def composition(folder: Path) -> dict[str, dict[str, int]]:
    """Reasoning conversations per dataset by who wrote them."""
    found: dict[str, dict[str, int]] = {}
    for path in conversation_files(folder):
        for c in read_conversations(path):
            found.setdefault(c.dataset, {"teacher": 0, "self": 0})[pathway_of(c)] += 1
    return dict(sorted(found.items()))


def report(run: Run, stages: list[str]) -> Counts:
    """The HTML page."""
    from surgr1.bench.report import ReportInput, Stage, write_report

    found = []
    for name in stages:
        folder = run.folder / "bench" / name
        logs = training_logs(run.folder, name)
        log = logs[-1] if logs else None
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        found.append(Stage(name, STAGE_TITLES[name], scores, folder / "predictions.jsonl", log))
    seconds = {
        n: m.seconds
        for n in ("simulate", "data", *stages)
        if (m := read_manifest(run.folder / MANIFESTS.get(n, n)))
    }
    page = ReportInput(
        title=run.recipe.title or run.recipe.name,
        simulated=all(s.dataset.startswith("sim-") for s in run.recipe.sources),
        stages=found,
        statistics=json.loads((run.folder / "data" / "statistics.json").read_text(encoding="utf-8")),
        composition=composition(run.folder),
        facts={
            "recipe": run.recipe.name,
            "seed": str(run.recipe.seed),
            "code": code_commit(),
            "written": timestamp(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "seconds per stage": ", ".join(f"{n} {s:.0f}" for n, s in seconds.items()),
            "base model": (
                "nano Qwen2.5-VL, trained in full on descriptions of training frames and on texts as a"
                " stand-in for pre-training"
                if run.recipe.model.nano
                else str(run.recipe.model.path)
            ),
        },
    )
    path = write_report(page, run.folder / "report.html")
    training_page(run.folder)
    return {"bytes": path.stat().st_size}


def live_engine(spec: TeacherSpec, ledger: "Ledger") -> "OpenAIEngine":
    """The endpoint of a teacher: its limits, its budget, every call written down in the ledger first."""
    from surgr1.engines.budget import Account
    from surgr1.engines.openai_engine import OpenAIEngine
    from surgr1.engines.pace import Pace

    return OpenAIEngine(
        spec.base_url,
        spec.model,
        api=spec.api,
        api_key=os.environ.get(spec.api_key_env, "none"),
        concurrency=spec.concurrency,
        omit=spec.omit,
        limit_field=spec.limit_field,
        extra_body=spec.extra_body,
        revision=spec.revision,
        pace=Pace(requests_per_minute=spec.requests_per_minute, tokens_per_minute=spec.tokens_per_minute),
        account=Account(ledger, budget_of(spec)),
    )


def batch_engine(spec: TeacherSpec, ledger: "Ledger", say: Callable[[str], None]) -> "BatchEngine":
    """The batch API of a teacher's endpoint."""
    from surgr1.engines.batch_engine import BatchEngine

    return BatchEngine(wire_of(spec), ledger, budget=budget_of(spec), say=say)


def wire_of(spec: TeacherSpec) -> "Wire":
    """What a teacher's endpoint is sent."""
    from surgr1.engines.wire import Wire

    return Wire(
        spec.base_url,
        spec.model,
        spec.api,
        os.environ.get(spec.api_key_env, "none"),
        spec.limit_field,
        spec.omit,
        dict(spec.extra_body),
        revision=spec.revision,
    )


def budget_of(spec: TeacherSpec) -> "Budget":
    """What a teacher's calls may cost. Raises PriceError."""
    from surgr1.engines.budget import Budget
    from surgr1.engines.prices import price_of, read_prices

    return Budget(spec.money, spec.tokens, price_of(spec.model, read_prices(spec.prices)))


MANIFESTS = {"simulate": "sim"}
"""Stages whose folder is not called like them."""
