"""SurgBench as tasks of lmms-eval 0.7 (evaluation.md C), for people who run their models there.

`export` writes one folder per task card: questions and pictures as Parquet, and the YAML that lmms-eval
reads. Its `utils.py` imports the second half of this module, so that an answer is read by `predictions.judge`
and scored by `scoring.score` there too: the numbers are ours because the code is.

Three defaults of lmms-eval would change them, and every YAML turns them off: reasoning tags are cut out of
answers before scoring, generation stops at an empty line, and a failed request is scored as an answer that
says so. What it cannot tell a task is whether a completion was cut off at its limit.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from surgr1 import __version__
from surgr1.bench.cards import Card, all_cards, card_of
from surgr1.bench.predictions import Row, judge, prediction_row
from surgr1.bench.reduction import reduce_card
from surgr1.bench.runner import Asking, offered, request_of
from surgr1.bench.scoring import score
from surgr1.corpora.grid import ImageError, PreparedImage, open_image
from surgr1.corpora.schema import Sample
from surgr1.engines.guard import PolicyError
from surgr1.engines.types import Completion
from surgr1.ontology.errors import SurgR1Error

SCORES = "surgbench"
"""The metric beside the primary one: interval, floor, N, share answered; in logged samples the row."""

FAILED = "[LMMS_EVAL_REQUEST_FAILED"
"""How lmms-eval's clients begin the text that they return for a failed request."""

_ROWS_PER_GROUP = 64
_READ = ("text", "finish_reason", "error", "prediction", "outcome", "rung", "valid_format", "given")


class LmmsEvalError(SurgR1Error):
    """Samples that cannot be exported, or exported tasks that this surgr1 would score otherwise."""


class _Function(str):
    """A function of the exported `utils.py`, as lmms-eval's YAML names it."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Function`."""


_Dumper.add_representer(
    _Function, lambda dumper, name: dumper.represent_scalar("!function", f"../utils.{name}")
)


@dataclass(frozen=True)
class _Exported:
    """One task: its card, its samples as they are asked."""

    card: Card
    simulated: bool
    samples: tuple[Sample, ...]

    @property
    def name(self) -> str:
        return f"{self.group}_{self.card.id.replace('-', '_').replace('.', '_')}"

    @property
    def group(self) -> str:
        """Simulated and real tasks never share a group, so that no table mixes them."""
        return "surgbench_simulated" if self.simulated else "surgbench"

    @property
    def title(self) -> str:
        return f"SurgBench {self.card.title}{' (simulated data)' if self.simulated else ''}"

    @property
    def videos(self) -> int:
        return len({(s.dataset, s.video) for s in self.samples})

    @property
    def datasets(self) -> list[str]:
        return sorted({s.dataset for s in self.samples})

    @property
    def licences(self) -> list[str]:
        return sorted({s.licence for s in self.samples if s.licence})

    @property
    def policies(self) -> list[str]:
        return sorted({s.policy for s in self.samples})


def export(
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage | Path],
    out: Path,
    *,
    reasoning: bool,
    asking: Asking | None = None,
    max_new_tokens: int = 1024,
) -> list[Path]:
    """Write `samples` (as `Card.asked` gives them) as lmms-eval tasks into the new folder `out`; returns the
    tasks' YAML files. The same samples give the same bytes, and the folder may be moved.

    `images` maps sample ids to pictures as the model shall be shown them; a bare path is shown as stored.
    `reasoning` and `asking` form the prompts as in `runner.predict`; the box frame is that of
    `asking.coordinates`, so models that answer in different frames need an export each.

    Raises PolicyError for local_only data: lmms-eval gives a task no say in where a model's endpoint lies or
    whether samples are uploaded. Raises LmmsEvalError for samples without a card, twice the same sample, a
    sample without a picture, an `asking` with a system turn (it is an option of lmms-eval's models) and an
    `out` that exists, ImageError for pictures that cannot be read. Nothing is left at `out` then.
    """
    asking = asking or Asking()
    if asking.system:
        raise LmmsEvalError(
            "lmms-eval tasks have no system turn; export without `system` and give it to lmms-eval's model"
            " with --model_args system_prompt=..."
        )
    tasks = _tasks(samples, asking)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LmmsEvalError(f"{out} exists and is not empty; give a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        part = Path(scratch) / out.name
        for task in tasks:
            folder = part / task.name
            folder.mkdir(parents=True)
            _write_documents(folder / "test.parquet", task, images, asking, reasoning=reasoning)
            _write_yaml(folder / f"{task.name}.yaml", _task_yaml(task, reasoning, asking, max_new_tokens))
        for group in sorted({t.group for t in tasks}):
            names = [t.name for t in tasks if t.group == group]
            _write_yaml(part / f"{group}.yaml", {"group": group, "task": names})
        for name, text in _texts(tasks, asking).items():
            (part / name).write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        part.replace(out)
    return [out / t.name / f"{t.name}.yaml" for t in tasks]


def _tasks(samples: Iterable[Sample], asking: Asking) -> list[_Exported]:
    """The samples by card, real and simulated apart, in the order of the cards. Policies first: nothing is
    opened for data that must stay.
    """
    samples = list(samples)
    by_task: dict[tuple[str, bool], list[Sample]] = {}
    without: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for sample in samples:
        card = card_of(sample.dataset, sample.task)
        if card is None:
            without[f"{sample.dataset} {sample.task}"] += 1
        elif (policy := card.asked(sample).policy) == "local_only":
            kept[sample.dataset] += 1
        else:
            key = (card.id, sample.dataset.startswith("sim-"))
            by_task.setdefault(key, []).append(offered(replace(sample, policy=policy), asking))
    if kept:
        raise PolicyError(
            "local_only data may not be exported for lmms-eval, which can send pictures to any endpoint and"
            f" upload samples: {', '.join(f'{d} ({n} questions)' for d, n in sorted(kept.items()))}; leave it"
            " out and use `surgr1 bench ask`, which guards every request"
        )
    if without:
        found = ", ".join(f"{k} ({n} questions)" for k, n in sorted(without.items()))
        raise LmmsEvalError(f"no task card covers {found}; `surgr1 bench tasks` lists the cards")
    if not samples:
        raise LmmsEvalError("there is no sample to export")
    twice = [k for k, n in Counter(s.sample_id for s in samples).items() if n > 1]
    if twice:
        raise LmmsEvalError(f"sample {twice[0]} stands twice among the samples; export each once")
    return [
        _Exported(card, simulated, tuple(by_task[card.id, simulated]))
        for simulated in (False, True)
        for card in all_cards()
        if (card.id, simulated) in by_task
    ]


def _write_documents(
    path: Path,
    task: _Exported,
    images: Mapping[str, PreparedImage | Path],
    asking: Asking,
    *,
    reasoning: bool,
) -> None:
    """The questions as Parquet that `datasets` reads: a picture, the prompt, the true answer and `row`, the
    prediction row without an answer as JSON (nested columns would lose None against empty).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = ("sample_id", "prompt", "answer", "row")
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in text}
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", picture), *((name, pa.string()) for name in text)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for start in range(0, len(task.samples), _ROWS_PER_GROUP):
            rows = [
                _document(s, _shown(s, images), asking, reasoning=reasoning)
                for s in task.samples[start : start + _ROWS_PER_GROUP]
            ]
            file.write_table(pa.Table.from_pylist(rows, schema=schema))


def _shown(sample: Sample, images: Mapping[str, PreparedImage | Path]) -> PreparedImage:
    found = images.get(sample.sample_id)
    if found is None:
        raise LmmsEvalError(
            f"sample {sample.sample_id} ({sample.dataset} {sample.video} frame {sample.frame}) has no picture"
            " in `images`"
        )
    if isinstance(found, PreparedImage):
        return found
    width, height = open_image(found).size
    return PreparedImage(found, width, height, width, height)


def _document(sample: Sample, image: PreparedImage, asking: Asking, *, reasoning: bool) -> dict[str, Any]:
    """One line of a task. The row names no file of this machine: the picture goes with it."""
    request = request_of(sample, image, asking, reasoning=reasoning)
    row = prediction_row(
        sample,
        image,
        request,
        Completion("", "stop", 0, 0, 0.0, 1, "lmms-eval", ""),
        reasoning=reasoning,
        coordinates=asking.coordinates,
        letters=asking.lettered(sample),
        form=asking.form(sample),
    )
    facts = {k: v for k, v in row.items() if k not in _READ} | {"image": ""}
    try:
        data = image.path.read_bytes()
    except OSError as error:
        raise ImageError(f"{image.path}: {error.strerror or error}") from error
    return {
        "image": {"bytes": data, "path": None},
        "sample_id": sample.sample_id,
        "prompt": request.prompt,
        "answer": sample.answer,
        "row": json.dumps(facts, sort_keys=True),
    }


def _task_yaml(task: _Exported, reasoning: bool, asking: Asking, max_new_tokens: int) -> dict[str, Any]:
    metrics = {task.card.primary: _Function("primary"), SCORES: _Function("scores")}
    return {
        "task": task.name,
        "task_alias": task.title,
        # lmms-eval resolves the file from the YAML's own folder.
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": "test.parquet"}},
        "test_split": "test",
        "output_type": "generate_until",
        "num_fewshot": 0,
        "doc_to_visual": _Function("doc_to_visual"),
        "doc_to_text": _Function("doc_to_text"),
        "doc_to_target": "answer",
        # An empty list: by default an answer ends at its first empty line.
        "generation_kwargs": {
            "until": [],
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "temperature": 0.0,
        },
        # By default <think> is cut out before scoring, which reads the reasoning's form.
        "reasoning_tags": "none",
        "process_results": _Function("process_results"),
        "metric_list": [
            {"metric": name, "aggregation": function, "higher_is_better": True}
            for name, function in metrics.items()
        ],
        "metadata": {
            "version": __version__,
            "card": task.card.id,
            "policy": task.policies,
            "simulated": task.simulated,
            "reasoning": reasoning,
            "coordinates": asking.coordinates,
            "use": "research only, not for clinical use",
        },
    }


def _write_yaml(path: Path, body: Mapping[str, Any]) -> None:
    path.write_text(
        yaml.dump(dict(body), Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def _texts(tasks: Sequence[_Exported], asking: Asking) -> dict[str, str]:
    """`utils.py` and `README.md` of the export."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("surgr1.bench", "templates/lmms_eval"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    facts = {
        "version": __version__,
        "vocabularies": {t.card.id: t.card.vocabulary_hash for t in tasks},
        "groups": sorted({t.group for t in tasks}),
        "coordinates": asking.coordinates,
        "tasks": tasks,
        "simulated": any(t.simulated for t in tasks),
        "restricted": any("licence_restricted" in t.policies for t in tasks),
    }
    return {name: environment.get_template(f"{name}.j2").render(facts) for name in ("utils.py", "README.md")}


# What the exported utils.py gives to lmms-eval.


def check_vocabularies(expected: Mapping[str, str]) -> None:
    """Raise LmmsEvalError when this surgr1 lacks a card (id -> vocabulary hash) or reads its answers by
    another list.
    """
    have = {c.id: c.vocabulary_hash for c in all_cards()}
    changed = sorted(name for name, found in expected.items() if have.get(name) != found)
    if changed:
        raise LmmsEvalError(
            f"these tasks were exported with other answer lists than surgr1 {__version__} has, for"
            f" {', '.join(changed)}; export them again with this version"
        )


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The picture (PIL)."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The prompt, as `runner.predict` sends it."""
    return str(doc["prompt"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The judged row of the first completion under both metrics. A failed request is a failure, not an
    answer.
    """
    text = results[0]
    failed = text.startswith(FAILED)
    generated = {
        "text": "" if failed else text,
        "finish_reason": "error" if failed else "stop",
        "error": text if failed else "",
    }
    row = judge(Row.model_validate(json.loads(doc["row"]) | generated).model_dump(mode="json"))
    return {_card(row).primary: row, SCORES: row}


def primary(rows: Sequence[Mapping[str, Any]]) -> float:
    """The card's primary metric, in percent."""
    card = _card(rows[0])
    return reduce_card(card, rows).value(card.primary)


@dataclass(frozen=True)
class CardScores:
    """What `scores.json` says of a card. lmms-eval prints and writes its text: a dictionary would make the
    table thousands of characters wide.
    """

    card: Mapping[str, Any]

    def __str__(self) -> str:
        found = self.card["metrics"][self.card["primary"]]
        bounds = "no interval" if found["low"] is None else f"[{found['low']:.1f}, {found['high']:.1f}]"
        return (
            f"95% {bounds}, floor {self.card['floor']:.1f}, N {self.card['n']} of {self.card['videos']}"
            f" videos, answered {self.card['coverage']:.0%}"
        )


def scores(rows: Sequence[Mapping[str, Any]]) -> CardScores:
    """Every metric of the card with its interval, floors and outcomes (see `scoring`)."""
    return CardScores(score(rows, name="lmms-eval")["cards"][0])


def _card(row: Mapping[str, Any]) -> Card:
    card = card_of(row["dataset"], row["task"])
    if card is None:
        raise LmmsEvalError(
            f"no task card covers {row['dataset']} {row['task']}; export with this surgr1 again"
        )
    return card
