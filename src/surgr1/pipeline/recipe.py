"""The typed recipe: one YAML file says what a run reads, trains and measures. Unknown keys are refused with
their place.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgr1.corpora.registry import Isolation
from surgr1.corpora.sources import Source, lender_of
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task
from surgr1.simulator.world import SimPlan, default_plan
from surgr1.synthesis.plan import Quota
from surgr1.training.grpo import GRPOStage
from surgr1.training.nano import NanoConfig
from surgr1.training.policy import Generation
from surgr1.training.sft import SFTStage
from surgr1.training.stage import Tracking


class RecipeError(SurgR1Error):
    """A recipe that cannot be read, has unknown or incoherent keys, or misses a data folder."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Images(_Section):
    """The final image grid: sizes are multiples of 28 pixels with this many merged tokens (28 x 28 each)."""

    min_tokens: int = Field(16, ge=1)
    max_tokens: int = Field(84, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is larger than max_tokens {self.max_tokens}")
        return self


class Selection(_Section):
    """Which training samples a stage sees: at most `limit`, balanced over dataset, task and answer."""

    limit: int = Field(ge=1)
    tasks: tuple[Task, ...] = ()
    """Empty: every task the data has."""


class NanoBase(_Section):
    """A tiny Qwen2.5-VL built here and trained in full: the stand-in for a pretrained base model."""

    config: NanoConfig = NanoConfig()
    observations: int = Field(3600, ge=0)
    echoes: int = Field(600, ge=0)
    readings: int = Field(2000, ge=0)
    """How many questions are met with what bears on them in the picture, how many sentences are repeated, and
    how many questions are asked of a written description, beside one description of every frame
    (`synthesis.pretraining`).
    """
    pretrain: SFTStage


class Model(_Section):
    """Exactly one of a nano model built here or a folder with a pretrained Qwen2.5-VL."""

    nano: NanoBase | None = None
    path: Path | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights where the model answers; every training stage has its own `dtype`."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.nano is None) == (self.path is None):
            raise ValueError("give exactly one of model.nano and model.path")
        return self


class TeacherSpec(_Section):
    """Who writes reasoning: `offline` from labels and the procedure's knowledge, `api` an OpenAI-compatible
    endpoint, `batch` its batch API, `local` a vision-language model on this machine. What is excluded from a
    stage's key (limits, budget, the key's name) may change without running anything again.
    """

    kind: Literal["offline", "api", "batch", "local"] = "offline"
    attempts: int = Field(2, ge=1)
    """A trace that fails a check is asked for again, with the reasons, until there are so many."""
    max_new_tokens: int = Field(1024, ge=1)
    temperature: float = Field(0.7, ge=0)
    base_url: str = ""
    model: str = ""
    api: Literal["chat", "responses"] = "chat"
    api_key_env: str = Field("OPENAI_API_KEY", exclude=True)
    revision: str = ""
    """Names the weights where a server swaps them under one name: other answers are asked for then."""
    concurrency: int = Field(8, ge=1, exclude=True)
    requests_per_minute: float = Field(0, ge=0, exclude=True)
    tokens_per_minute: float = Field(0, ge=0, exclude=True)
    """The provider's limits; 0 is none. A batch has none of these three."""
    money: float | None = Field(None, gt=0, exclude=True)
    tokens: int | None = Field(None, gt=0, exclude=True)
    """The most that all calls of the run folder's ledger may cost (US dollars) or take: a hard stop."""
    prices: Path | None = Field(None, exclude=True)
    """A table of prices in place of the package's (`engines/prices.yaml`)."""
    omit: tuple[str, ...] = ()
    """Sampling fields that the endpoint does not take, e.g. [top_k, repetition_penalty] at OpenAI's own."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: Mapping[str, Any] = {}
    """Added to every request, e.g. what turns a model's own thinking on."""
    path: Path | None = None
    generation: Generation = Generation()
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of a local model: the folder of its weights, and what runs it."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        remote = self.kind in ("api", "batch")
        if remote and not (self.base_url and self.model):
            raise ValueError(f"a teacher of kind {self.kind} needs base_url and model")
        if not remote and (self.base_url or self.model):
            raise ValueError(f"a teacher of kind {self.kind} takes no base_url or model")
        if (self.kind == "local") != (self.path is not None):
            raise ValueError("a local teacher, and no other, needs path, the folder of its weights")
        return self


class Sft(_Section):
    """Stage 1: VQA labels."""

    select: Selection
    stage: SFTStage


class ColdStart(_Section):
    """Stage 2: three-level traces from the teacher, for samples chosen by `select`, or by `quotas`: "table-3"
    (the paper's), a file, or a list (`synthesis.plan`).
    """

    select: Selection | None = None
    quotas: Literal["table-3"] | Path | tuple[Quota, ...] | None = None
    near_duplicates: bool = True
    """Quotas only: of pictures that look the same one is taken. Every candidate is hashed for that."""
    teacher: TeacherSpec = TeacherSpec()
    stage: SFTStage

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.select is None) == (self.quotas is None):
            raise ValueError("give exactly one of coldstart.select and coldstart.quotas")
        return self


class Difficulty(_Section):
    """Keeps prompts that the policy answers right in a share between `least` and `most` of `rollouts` tries:
    those it always or never gets right make dead groups.
    """

    rollouts: int = Field(4, ge=2)
    least: float = Field(0.01, ge=0, le=1)
    most: float = Field(0.99, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is larger than most {self.most}")
        return self


class Grpo(_Section):
    """Stage 3: GRPO with entropy-weighted tokens."""

    select: Selection
    difficulty: Difficulty | None = None
    stage: GRPOStage


class Refine(_Section):
    """Stage 4: K rollouts, pseudo-labels from both pathways, distillation; `iterations` times (Eq. 8, Steps
    1-3). With `early_stop` every iteration is measured on the validation videos: the first that does not
    raise their public Arena Score is the last, and the best adapter is the stage's.
    """

    iterations: int = Field(2, ge=1)
    rollouts: int = Field(3, ge=1)
    temperature: float = Field(0.9, gt=0)
    max_new_tokens: int = Field(160, ge=1)
    early_stop: bool = False
    select: Selection
    teacher: TeacherSpec = TeacherSpec()
    stage: SFTStage


class Bench(_Section):
    """SurgBench after the base and after every stage."""

    limit_per_card: int = Field(200, ge=1)
    max_new_tokens: int = Field(160, ge=1)
    draws: int = Field(2000, ge=10)
    probes: int = Field(0, ge=0)
    """Questions that the last stage is asked again with its trace cut or changed or the picture replaced."""


class Corpus(_Section):
    """What is read: datasets, how they are kept apart, and how many bad rows are put up with."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str = ""
    seed: int = 0
    simulate: Literal["smoke", "demo"] | SimPlan | None = None
    sources: tuple[Source, ...] = Field(min_length=1)
    isolation: Isolation = Isolation()
    max_rejects: float = Field(0.01, ge=0, le=1)
    """Share of a dataset's labelled frames that may be unusable; they are counted and put in quarantine."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [s.dataset for s in self.sources]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"sources name {', '.join(twice)} more than once")
        return self

    @property
    def sim_plan(self) -> SimPlan | None:
        """The simulation plan, with the built-in sizes resolved."""
        return default_plan(self.simulate) if isinstance(self.simulate, str) else self.simulate


class Recipe(Corpus):
    """A whole run. Stages that are left out are not run; a later stage starts from the last adapter before
    it.
    """

    images: Images = Images()
    model: Model
    sft: Sft | None = None
    coldstart: ColdStart | None = None
    grpo: Grpo | None = None
    refine: Refine | None = None
    bench: Bench = Bench()
    generation: Generation = Generation()
    launcher: str = ""
    """The command that starts the processes of a training stage, e.g. "torchrun --nproc-per-node 8" or
    "accelerate launch --config_file recipes/accelerate/fsdp2.yaml"; empty: one process. Like `tracking` it
    does not change results, so changing it runs nothing again.
    """
    tracking: Tracking = "tensorboard"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.grpo and not self.coldstart:
            # Without a cold start no rollout has the format, every group is dead and GRPO learns nothing.
            raise ValueError(
                "grpo needs coldstart: without it no rollout has the reasoning format to be rewarded"
            )
        return self


def load_recipe(
    path: Path, *, run_dir: Path, data: dict[str, Path] | None = None, settings: Sequence[str] = ()
) -> Recipe:
    """Read a recipe. `data` maps dataset ids to folders; simulated datasets live in `run_dir`/sim/<dataset>.
    `settings` change single keys, as "grpo.stage.rollouts.engine=vllm".

    Raises RecipeError naming the file, the key, what was found and what is allowed.
    """
    raw = _read(path, settings)
    _give_roots(path, raw, run_dir, dict(data or {}))
    return _validated(Recipe, path, raw)


def load_corpus(
    path: Path,
    *,
    run_dir: Path,
    data: dict[str, Path] | None = None,
    found: Mapping[str, Sequence[Path]] = MappingProxyType({}),
    settings: Sequence[str] = (),
    allow_missing: bool = False,
) -> Corpus:
    """Read what a recipe says of its data: a whole recipe, or one of sources alone (no `model`). `path` may
    be the name of a corpus that ships with the package ("surgdb-3m"). `found` are folders that stand in for
    those not in `data`. With `allow_missing` sources without a folder are left out. Raises RecipeError.
    """
    if not path.is_file() and (shipped := _shipped(path.name)).is_file():
        path = shipped
    raw = _read(path, settings)
    data = dict(data or {})
    for source in raw.get("sources") or []:
        name = str(source.get("dataset")) if isinstance(source, dict) else ""
        if name in found and name not in data and "root" not in source:
            if len(found[name]) > 1:
                places = " and ".join(map(str, found[name]))
                raise RecipeError(f"{name} lies in {places}: name one with --data {name}=PATH")
            source["root"] = found[name][0]
    if allow_missing and isinstance(raw.get("sources"), list):
        raw["sources"] = [
            s
            for s in raw["sources"]
            if not isinstance(s, dict)
            or "root" in s
            or s.get("dataset") in data
            or (raw.get("simulate") and str(s.get("dataset")).startswith("sim-"))
        ]
    _give_roots(path, raw, run_dir, data)
    return _validated(Recipe if "model" in raw else Corpus, path, raw)


def _shipped(name: str) -> Path:
    return Path(str(files("surgr1.pipeline"))) / "corpora" / f"{name}.yaml"


def _read(path: Path, settings: Sequence[str]) -> dict[str, Any]:
    """The recipe's mapping, with single keys changed."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"recipe {path}: expected a mapping of sections, found {type(raw).__name__}")
    for setting in settings:
        _change(raw, setting)
    return raw


_Kind = TypeVar("_Kind", bound=Corpus)


def _validated(kind: type[_Kind], path: Path, raw: dict[str, Any]) -> _Kind:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or 'recipe'}: {e['msg']}" for e in error.errors()]
        raise RecipeError(f"recipe {path} is refused:\n" + "\n".join(lines)) from error


def _change(raw: dict[str, Any], setting: str) -> None:
    """Put one value into the mapping; sections that are not there are made."""
    key, separator, text = setting.partition("=")
    *sections, last = key.split(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {setting}: the value is not YAML: {error}") from error
    place: Any = raw
    for section in sections:
        place = place.setdefault(section, {}) if isinstance(place, dict) else None
    if not separator or not last or not isinstance(place, dict):
        raise RecipeError(
            f"--set {setting}: expected KEY.KEY=VALUE with the keys of sections, e.g."
            " --set generation.engine=vllm"
        )
    place[last] = value


def _give_roots(path: Path, raw: dict[str, Any], run_dir: Path, data: dict[str, Path]) -> None:
    """Fill in where the sources lie: the command line, the recipe, or the run's own simulation."""
    roots: dict[str, Path] = {}
    sources = raw.get("sources") or []
    for source in sources:
        if not isinstance(source, dict) or "dataset" not in source:
            raise RecipeError(f"recipe {path}: every entry of sources needs a dataset, found {source!r}")
        name = str(source["dataset"])
        if name in data:
            source["root"] = data.pop(name)
        elif "root" not in source:
            if not name.startswith("sim-"):
                raise RecipeError(f"recipe {path}: no folder for {name}; pass --data {name}=PATH")
            source["root"] = run_dir / "sim" / name
        roots[name] = source["root"]
    for source in sources:
        lender = lender_of(str(source["dataset"]))
        if lender and "pictures" not in source:
            # Its own entry, or a folder given for its pictures alone.
            folder = roots.get(lender) or data.pop(lender, None)
            if folder is not None:
                source["pictures"] = folder
    if data:
        known = ", ".join(str(s.get("dataset")) for s in sources)
        raise RecipeError(
            f"--data names {', '.join(data)}, which recipe {path} does not read; its datasets: {known}"
        )
