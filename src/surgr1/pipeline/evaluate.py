"""Ask any model the questions of SurgBench: a shipped model card, a card of one's own or a trained run.
Answers only; scoring is apart and reads the predictions file alone.

A folder holds `asking.json` (the form of asking, which may not change), `ledger.sqlite` (every completion),
`images/` (pictures resized for the model), `predictions.jsonl` and `usage.json`.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from surgr1.bench.cards import all_cards, card_of
from surgr1.bench.model_cards import LOCAL, EngineKind, ModelCard, ModelCardError, Published
from surgr1.bench.predictions import API_ERRORS, is_final, read_predictions, usage
from surgr1.bench.runner import Asking, predict
from surgr1.corpora.grid import FACTOR, ImageError, PreparedImage, image_size, prepare_image
from surgr1.corpora.schema import Protocol, Role, Sample
from surgr1.corpora.sources import Source, lender_of, read_source
from surgr1.engines.guard import PolicyError, check_policy
from surgr1.engines.types import Engine
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.vocabularies import HOSPITALS
from surgr1.pipeline.manifest import write_json

ROLES: tuple[Role, ...] = ("test", "external")
"""Roles of the videos that SurgBench asks about."""


class EvaluateError(SurgR1Error):
    """A model cannot be asked as told, or a folder holds answers to another form of asking."""


@dataclass(frozen=True)
class Withheld:
    """Questions of one data set that may not go to the model's endpoint: "not evaluable: policy"."""

    dataset: str
    questions: int
    reason: str


@dataclass(frozen=True)
class Asked:
    """What `ask` left: `rows` completions in `predictions`. `final` is False where more than 0.5 % of the
    requests failed; `note` then says so.
    """

    predictions: Path
    usage: Path
    rows: int
    final: bool
    note: str
    withheld: tuple[Withheld, ...]


def frame_lists(
    samples: Iterable[Sample], *, limit: int | None = None, seed: int = 0, roles: Collection[Role] = ROLES
) -> list[Sample]:
    """The questions of every task card among the samples of these roles, by the cards' frame rules; `limit`
    asks fewer per card.
    """
    pool = [s for s in samples if s.role in roles]
    found = {s.sample_id: s for card in all_cards() for s in card.frame_list(pool, limit, seed)}
    return list(found.values())


def folder_sources(folders: Mapping[str, Path]) -> list[Source]:
    """Dataset folders (data set id -> folder) as sources, in the data set's own layout or the generic one:
    the official test split, all videos of a hospital's. Labels without pictures take them from the folder of
    the data set they are about. Raises EvaluateError.
    """
    from pydantic import ValidationError

    from surgr1.corpora.adapters.generic import is_generic

    found = []
    for dataset, root in folders.items():
        role: Role | None = "external" if dataset.removeprefix("sim-") in HOSPITALS else None
        try:
            source = Source(
                dataset=dataset,
                root=root,
                pictures=folders.get(lender_of(dataset)),
                role=role,
                format="generic" if is_generic(root) else "native",
            )
        except ValidationError as error:
            raise EvaluateError(f"--data {dataset}={root}: {error.errors()[0]['msg']}") from error
        found.append(source)
    return found


def folder_samples(sources: Iterable[Source], *, limit: int | None = None, seed: int = 0) -> list[Sample]:
    """`frame_lists` of dataset folders. Raises LayoutError, LabelError, ImageError, EvaluateError."""
    sources = list(sources)
    lent = {lender_of(s.dataset) for s in sources}
    found: list[Sample] = []
    for source in sources:
        mine = frame_lists(read_source(source), limit=limit, seed=seed)
        if not mine and source.layout not in lent:
            raise EvaluateError(
                f"--data {source.dataset}={source.root}: no question of a task card about a test video"
            )
        found += mine
    return found


def privacy_plan(
    samples: Iterable[Sample], base_url: str | None
) -> tuple[list[Sample], tuple[Withheld, ...]]:
    """Which samples may be asked of a model at `base_url` (None: in this process), and which not and why.

    Decided before a picture is opened; engines ask the guard again for every request.
    """
    samples = list(samples)
    refused: dict[str, str] = {}
    for policy in sorted({s.policy for s in samples}) if base_url is not None else ():
        try:
            check_policy(policy, str(base_url))
        except PolicyError as error:
            refused[policy] = str(error)
    counts = Counter((s.dataset, s.policy) for s in samples if s.policy in refused)
    withheld = tuple(Withheld(d, n, refused[p]) for (d, p), n in sorted(counts.items()))
    return [s for s in samples if s.policy not in refused], withheld


def address_of(card: ModelCard) -> str | None:
    """Where a card's endpoint lies (None: the model runs in this process). Raises ModelCardError."""
    if card.engine != "endpoint":
        return None
    found = os.environ.get(card.base_url_env, "") or card.base_url
    if not found:
        serve = f"; serve it, e.g. with `vllm serve {card.huggingface}`," if card.huggingface else ";"
        raise ModelCardError(
            f"{card.id}: no address{serve} and set {card.base_url_env}, e.g. to http://127.0.0.1:8000/v1"
        )
    return found


def weights_of(card: ModelCard) -> Path:
    """The folder with a local model's weights: its path, or the downloaded Hugging Face snapshot. Nothing is
    downloaded here. Raises ModelCardError.
    """
    if card.path is not None:
        folder = card.path
        if not folder.is_dir():
            raise ModelCardError(f"{card.id}: path {folder} is no folder")
    elif card.huggingface:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(
                snapshot_download(card.huggingface, revision=card.revision or None, local_files_only=True)
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError) as error:
            revision = f" --revision {card.revision}" if card.revision else ""
            raise ModelCardError(
                f"{card.id}: {card.huggingface} is not on this machine; run `hf download"
                f" {card.huggingface}{revision}` first"
            ) from error
    else:
        raise ModelCardError(
            f"{card.id}: no weights are known to be public; copy the card, give `path`, and pass the copy's"
            " file name"
        )
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError) as error:
        raise ModelCardError(f"{card.id}: {folder / 'config.json'}: {error}") from error
    if kind != LOCAL:
        raise ModelCardError(
            f"{card.id}: {folder} holds a {kind!r} model; engine {card.engine} loads {LOCAL} only and never"
            " runs code from a model's repository. Serve it apart and use a card with engine: endpoint"
        )
    return folder


def card_of_run(
    folder: Path,
    stage: str,
    *,
    base: Path | None = None,
    engine: Literal["transformers", "vllm"] = "transformers",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> ModelCard:
    """The card of what a stage of a run trained ("base": the base alone), asked as it was trained: pictures
    in its processor's budget, boxes in the grid's pixels. `base` is needed where the run did not build its
    base itself. Raises ModelError.
    """
    from surgr1.training.loading import adapter_of, load_processor

    base = base or folder / "base" / "model"
    size = load_processor(base).image_processor.size
    kind: EngineKind = engine
    return ModelCard(
        id="run-" + stage,
        name=f"{folder.name} {stage}",
        engine=kind,
        architecture=LOCAL,
        path=base,
        adapter=None if stage == "base" else adapter_of(folder, stage),
        dtype=dtype,
        coordinates="grid",
        picture="grid",
        min_pixels=size["shortest_edge"] // FACTOR**2 * FACTOR**2,
        max_pixels=size["longest_edge"] // FACTOR**2 * FACTOR**2,
        published=Published(protocol="open", source="this run"),
        licence="",
    )


@contextmanager
def open_engine(card: ModelCard, *, thinks: bool | None = None) -> Iterator[Engine]:
    """The engine of a card; leaving the block frees its device. Raises ModelCardError and what the engines
    raise.
    """
    address = address_of(card)
    if address is not None:
        from surgr1.engines.openai_engine import OpenAIEngine

        key = os.environ.get(card.api_key_env, "")
        if card.api_key_env and not key:
            raise ModelCardError(f"{card.id}: set {card.api_key_env} to the key of {address}")
        yield OpenAIEngine(
            address,
            card.api_model,
            api_key=key or "none",
            concurrency=card.concurrency,
            timeout_s=card.timeout_s,
            deadline_s=5 * card.timeout_s,
            extra_body=card.body(thinks),
            omit=card.omit,
            limit_field=card.limit_field,
            answers_as=card.answers_as,
        )
        return
    from surgr1.training.policy import Generation, open_policy

    engine: Literal["transformers", "vllm"] = "vllm" if card.engine == "vllm" else "transformers"
    generation = Generation(engine=engine, batch_size=card.batch_size, memory=card.memory)
    with open_policy(weights_of(card), card.adapter, generation, dtype=card.dtype) as found:
        yield found


def shown_images(
    samples: Iterable[Sample], roots: Mapping[str, Path], card: ModelCard, cache: Path
) -> dict[str, PreparedImage]:
    """The pictures as the model is shown them, by sample id; each is prepared once. Raises ImageError."""
    samples = list(samples)
    paths = {s.sample_id: (roots[s.dataset] / s.image).resolve() for s in samples}

    def shown(path: Path) -> PreparedImage:
        if card.picture == "grid":
            low, high = card.tokens
            return prepare_image(path, cache, min_tokens=low, max_tokens=high)
        width, height = image_size(path)
        return PreparedImage(path, width, height, width, height)

    distinct = list(dict.fromkeys(paths.values()))
    # Pillow works outside the interpreter's lock. Pictures with the same bytes become one file, which one
    # thread alone may write.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        writers = dict(zip(pool.map(_digest, distinct), distinct, strict=True))
        for _ in pool.map(shown, writers.values()):
            pass
        made = dict(zip(distinct, pool.map(shown, distinct), strict=True))
    return {name: made[path] for name, path in paths.items()}


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}; is the dataset complete?") from error


def ask(
    samples: Sequence[Sample],
    roots: Mapping[str, Path],
    card: ModelCard,
    out: Path,
    *,
    reasoning: bool = True,
    protocol: Protocol | None = None,
    shuffle_options: int | None = None,
    thinking: bool | None = None,
    one_shot: bool = False,
    native: bool = False,
    k: int = 1,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Asked:
    """Ask a model every sample's question and write rows as answers arrive. Killed, the same call continues;
    what failed is asked again.

    `roots` maps data set ids to the folders that `Sample.image` is relative to. `protocol` overrides the task
    cards': under "options" single-choice lists get letters, in an order per question drawn from
    `shuffle_options`. `thinking` turns a model's own thinking on or off. `one_shot` shows the answer's form
    first. `native` asks with the card's own prompts, and only what they cover. `k` completions per question
    serve self-consistency (scores use the first). `engine` stands in for the card's.

    Raises PolicyError when nothing may be asked of this model, EvaluateError when `out` holds answers to
    another form of asking, ModelCardError, ImageError, PredictionError.
    """
    from surgr1.engines.ledger import Ledger, LedgerEngine

    out = out.resolve()
    thinks = card.thinks(thinking)
    if native:
        reasoning = False
        samples = [s for s in samples if s.task in card.native_prompts]
        if not samples:
            raise EvaluateError(
                f"{card.id}: none of the questions has a task under the card's native_prompts"
            )
    sampling = card.sampled(thinks=thinks, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    if k > 1 and sampling.temperature == 0 and "temperature" not in card.omit:
        raise EvaluateError(
            f"{k} completions per question need a temperature over 0: greedy ones are the same"
        )
    sampling = replace(sampling, n=k)
    asked = []
    for s in samples:
        task_card = card_of(s.dataset, s.task)
        asked.append(
            task_card.asked(s, protocol) if task_card else replace(s, protocol=protocol or s.protocol)
        )
    allowed, withheld = privacy_plan(asked, address_of(card))
    if not allowed:
        raise PolicyError(
            "not evaluable: policy. "
            + " ".join(f"{w.dataset} ({w.questions} questions): {w.reason}." for w in withheld)
            if withheld
            else "there is no question to ask"
        )
    asking = Asking(
        letters=protocol == "options",
        shuffle=shuffle_options,
        one_shot=one_shot,
        native=card.native_prompts if native else {},
        system=card.system,
        coordinates=card.coordinates,
        box_instruction=card.box_instruction,
    )
    _claim(
        out, card, asking, sampling=asdict(sampling), reasoning=reasoning, protocol=protocol, thinks=thinks
    )
    images = shown_images(allowed, roots, card, out / "images")
    predictions = out / "predictions.jsonl"
    with closing(Ledger(out / "ledger.sqlite")) as ledger, _or_open(engine, card, thinks) as live:
        try:
            predict(
                allowed,
                images,
                LedgerEngine(live, ledger),
                predictions,
                reasoning=reasoning,
                sampling=sampling,
                asking=asking,
                progress=progress,
            )
        finally:
            # Also of a run that was stopped: what it has cost so far.
            if predictions.is_file():
                _write_usage(out, card, len(allowed) * k, withheld)
    found = json.loads((out / "usage.json").read_text(encoding="utf-8"))
    return Asked(predictions, out / "usage.json", found["rows"], found["final"], found["note"], withheld)


@contextmanager
def _or_open(engine: Engine | None, card: ModelCard, thinks: bool | None) -> Iterator[Engine]:
    if engine is not None:
        yield engine
        return
    with open_engine(card, thinks=thinks) as found:
        yield found


_ASKED_BY = {
    "engine",
    "huggingface",
    "revision",
    "path",
    "adapter",
    "dtype",
    "api_model",
    "picture",
    "min_pixels",
    "max_pixels",
    "extra_body",
    "omit",
}
"""What of a card decides the answers, beside what `Asking` and `Sampling` hold."""


def _claim(out: Path, card: ModelCard, asking: Asking, **rest: Any) -> None:
    """Make the folder that of one form of asking. Raises EvaluateError when it is another's already."""
    model = card.model_dump(mode="json", include=_ASKED_BY)
    if rest["thinks"] is not None:
        model["extra_body"] = card.body(rest["thinks"])
    form = asdict(asking) | rest | {"model": card.id} | {f"card.{f}": v for f, v in model.items()}
    form = json.loads(json.dumps(form, default=str))
    path = out / "asking.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EvaluateError(f"{path}: not JSON ({error}); give another --out") from error
        changed = sorted(f for f in form | before if form.get(f) != before.get(f))
        if changed:
            lines = [f"  {f}: {before.get(f)!r} -> {form.get(f)!r}" for f in changed]
            raise EvaluateError(
                f"{out} holds answers to another form of asking; give another --out. Changed:\n"
                + "\n".join(lines)
            )
    write_json(path, form)


def _write_usage(out: Path, card: ModelCard, expected: int, withheld: tuple[Withheld, ...]) -> None:
    """`usage.json`: cost and latency per task card and over all, whether the answers make a final result."""
    rows = list(read_predictions(out / "predictions.jsonl"))
    parts: defaultdict[str, list[Any]] = defaultdict(list)
    for row in rows:
        task_card = card_of(row["dataset"], row["task"])
        parts[task_card.id if task_card else f"{row['dataset']} {row['task']}"].append(row)
    notes = []
    if len(rows) < expected:
        notes.append(f"{expected - len(rows)} of {expected} answers are missing: run again to continue")
    if not is_final(rows):
        failed = sum(r["outcome"] == "api_error" for r in rows)
        notes.append(
            f"not final: {failed} of {len(rows)} requests failed, over {API_ERRORS:.1%}; run again to ask"
            " them again"
        )
    body = {
        "model": card.id,
        "name": card.name,
        "engine": rows[0]["engine"] if rows else "",
        "served": sorted({r["model"] for r in rows}),
        "rows": len(rows),
        "final": not notes,
        "note": "; ".join(notes),
        "withheld": [asdict(w) for w in withheld],
        "total": usage(rows, card.prices),
        "cards": {name: usage(mine, card.prices) for name, mine in sorted(parts.items())},
    }
    write_json(out / "usage.json", body)
