"""SurgBench exported for lmms-eval: what it reads, that its numbers are ours, what may not be exported.

lmms-eval is no dependency; where it is installed (docs/lmms-eval.md), the last tests run it.
"""

import importlib.util
import io
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from surgr1.bench import lmms_eval as exported
from surgr1.bench.cards import all_cards, card_of
from surgr1.bench.lmms_eval import FAILED, LmmsEvalError, export
from surgr1.bench.predictions import Row
from surgr1.bench.runner import Asking, predict, read_predictions
from surgr1.bench.scoring import score
from surgr1.corpora.grid import ImageError, PreparedImage
from surgr1.corpora.schema import Labels, Sample
from surgr1.engines.guard import PolicyError
from surgr1.engines.types import Completion, Sampling
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task

CARDS = (
    "cholect50-triplet",
    "cholec80-phase",
    "endoscapes-cvs",
    "cholect50-localization",
    "cholec80-tools",
    "endovis18-vqa",
)
ANSWERS = {
    "cholect50-triplet": ("grasper grasp cystic artery", "grasper dissect omentum; hook dissect gallbladder"),
    "cholec80-phase": ("preparation", "gallbladder dissection"),
    "endoscapes-cvs": ("no", "yes"),
    "cholect50-localization": ("(10,10),(50,50)", "(20,0),(100,40)"),
    "cholec80-tools": ("grasper", "grasper, hook"),
    "endovis18-vqa": ("kidney", "left-top"),
}
VIDEOS, FRAMES = 3, 4


def samples_of(card_id: str, *, simulated: bool) -> list[Sample]:
    """A few frames of a few videos, asked as the card asks."""
    card = next(c for c in all_cards() if c.id == card_id)
    found = []
    for video in range(VIDEOS):
        for frame in range(FRAMES):
            for focus in {"cvs": ("C1", "C2", "C3"), "box": ("hook",)}.get(card.kind, ("",)):
                found.append(
                    card.asked(
                        Sample(
                            dataset=("sim-" if simulated else "") + card.dataset,
                            centre=card.centres[0],
                            procedure=card.procedure,
                            canonical_video=f"v:{video}",
                            video=f"video{video}",
                            frame=frame,
                            seconds=float(frame),
                            image=f"{video}/{frame}.png",
                            width=100,
                            height=50,
                            task=Task(card.task),
                            question="Which organ is operated on?",
                            options=(),
                            protocol="open",
                            focus=focus,
                            answer=ANSWERS[card_id][(video + frame) % 2],
                            labels=Labels(phase="preparation", cvs=(True, None, False), tools=()),
                            split="test",
                            role="test",
                            policy="public" if simulated else "licence_restricted",
                            licence="CC BY-NC-SA 4.0",
                        )
                    )
                )
    return found


def every_sample(*, simulated: bool = True) -> list[Sample]:
    return [s for card in CARDS for s in samples_of(card, simulated=simulated)]


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> PreparedImage:
    """A stored picture of 100 x 50 pixels as it is shown on a grid of 56 x 28."""
    path = tmp_path_factory.mktemp("pictures") / "x.png"
    Image.new("RGB", (56, 28), (10, 20, 30)).save(path)
    return PreparedImage(path, 56, 28, 100, 50)


def pictures(samples: list[Sample], picture: PreparedImage) -> dict[str, PreparedImage]:
    return dict.fromkeys((s.sample_id for s in samples), picture)


def scripted(samples: list[Sample], seed: int = 0) -> dict[str, str]:
    """A text per sample: right and wrong answers in good and bad form, and every kind of failure."""
    rng = random.Random(seed)
    texts = {}
    for sample in samples:
        card = card_of(sample.dataset, sample.task)
        assert card is not None
        levels = "\n\n".join(f"Level {k}: something" for k in range(1, sample.level + 1))
        answer = rng.choice((sample.answer, *ANSWERS[card.id]))
        texts[sample.sample_id] = rng.choice(
            (
                f"<think>{levels}</think><answer>{answer}</answer>",
                f"<think>{levels}</think>\n\n<answer>{answer}</answer>",
                f"<answer>{answer}</answer>",
                f"It is {answer}.",
                f"<think>{levels}",
                "",
                "I am sorry, I cannot help.",
                "<answer>a spoon</answer>",
            )
        )
    return texts


class Scripted:
    """An engine that returns a text per sample, and no usage, as lmms-eval has none."""

    name, model = "lmms-eval", ""

    def __init__(self, texts: dict[str, str]):
        self.texts, self.prompts = texts, {}

    def generate(self, requests, sampling):
        for request in requests:
            self.prompts[request.request_id] = request.prompt
            text = self.texts[request.request_id]
            failed = text.startswith(FAILED)
            found = ("", "error") if failed else (text, "stop")
            yield request, [Completion(*found, 0, 0, 0.0, 1, "lmms-eval", "", text if failed else "")]


def our_rows(samples, images, texts, folder, *, asking=None, reasoning=True) -> list[dict]:
    """The rows of the same answers by our own runner."""
    out = folder / "predictions.jsonl"
    predict(samples, images, Scripted(texts), out, reasoning=reasoning, sampling=Sampling(), asking=asking)
    return [row | {"image": ""} for row in read_predictions(out)]


class _Loader(yaml.SafeLoader):
    """Reads lmms-eval's function tags as their text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read_yaml(path: Path) -> dict:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def utils_of(folder: Path):
    """The exported utils.py, loaded from its file as lmms-eval loads it."""
    spec = importlib.util.spec_from_file_location("../utils", folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documents(folder: Path, task: str) -> list[dict]:
    """The documents of a task, pictures decoded."""
    rows = pq.read_table(folder / task / "test.parquet").to_pylist()
    return [r | {"image": Image.open(io.BytesIO(r["image"]["bytes"]))} for r in rows]


def test_the_exported_functions_give_exactly_our_scores(tmp_path, picture) -> None:
    """The same texts through utils.py and through our runner, reader and scorer."""
    samples = every_sample()
    images, texts = pictures(samples, picture), scripted(samples)
    paths = export(samples, images, tmp_path / "out", reasoning=True)
    ours = our_rows(samples, images, texts, tmp_path)
    expected = {c["id"]: c for c in score(ours, name="ours")["cards"]}
    utils = utils_of(tmp_path / "out")
    outcomes = set()
    for path in paths:
        about = read_yaml(path)
        card = about["metadata"]["card"]
        metric, everything = (m["metric"] for m in about["metric_list"])
        found = [
            utils.process_results(doc, [texts[doc["sample_id"]].strip()])
            for doc in documents(tmp_path / "out", about["task"])
        ]
        rows = [f[everything] for f in found]
        mine = {r["sample_id"]: r for r in ours if card_of(r["dataset"], r["task"]).id == card}
        assert {r["sample_id"]: r for r in rows} == mine
        assert utils.scores(rows).card == expected[card]
        value = utils.primary([f[metric] for f in found])
        assert value == expected[card]["metrics"][expected[card]["primary"]]["value"]
        assert 0 < value < 100, "a script that is all right or all wrong would compare nothing"
        outcomes |= {r["outcome"] for r in rows}
    assert {p.stem for p in paths} == {f"surgbench_simulated_{c.replace('-', '_')}" for c in CARDS}
    assert outcomes >= {"ok", "repaired", "oov", "refused", "empty", "truncated"}


def test_other_forms_of_asking_are_exported_as_they_are_asked(tmp_path, picture) -> None:
    """Letters in a shuffled order, an example first, boxes from 0 to 1000."""
    phases = [replace(s, protocol="options") for s in samples_of("cholec80-phase", simulated=True)]
    samples = [*phases, *samples_of("cholect50-localization", simulated=True)]
    images = pictures(samples, picture)
    asking = Asking(
        letters=True,
        shuffle=3,
        one_shot=True,
        coordinates="thousand",
        box_instruction="0 to 1000, please; the picture is {width} x {height}.",
    )
    texts = {s.sample_id: "<answer>B</answer>" for s in phases}
    texts |= {s.sample_id: "<answer>(100,200),(500,900)</answer>" for s in samples if s.focus}
    engine = Scripted(texts)
    predict(
        samples,
        images,
        engine,
        tmp_path / "p.jsonl",
        reasoning=False,
        sampling=Sampling(),
        asking=asking,
    )
    export(samples, images, tmp_path / "out", reasoning=False, asking=asking)
    utils = utils_of(tmp_path / "out")
    theirs = {}
    for task in ("surgbench_simulated_cholec80_phase", "surgbench_simulated_cholect50_localization"):
        for doc in documents(tmp_path / "out", task):
            assert utils.doc_to_text(doc) == engine.prompts[doc["sample_id"]]
            theirs[doc["sample_id"]] = utils.process_results(doc, [texts[doc["sample_id"]]])["surgbench"]
    ours = {r["sample_id"]: r | {"image": ""} for r in read_predictions(tmp_path / "p.jsonl")}
    assert theirs == ours
    assert len({r["prediction"] for r in ours.values() if r["task"] == "phase_recognition"}) > 1
    assert {r["prediction"] for r in ours.values() if r["focus"]} == {"(10,10),(50,45)"}


def test_a_failed_request_is_no_answer(tmp_path, picture) -> None:
    """lmms-eval returns the failure as the model's text. Three of four right, the fourth failed: 75 percent,
    one api_error; scored as text, the label in the message would have been an answer.
    """
    samples = samples_of("cholec80-phase", simulated=True)[:4]
    export(samples, pictures(samples, picture), tmp_path / "out", reasoning=True)
    utils = utils_of(tmp_path / "out")
    right = {s.sample_id: s.answer for s in samples}
    rows = []
    for k, doc in enumerate(documents(tmp_path / "out", "surgbench_simulated_cholec80_phase")):
        answer = f"<answer>{right[doc['sample_id']]}</answer>"
        text = f"{FAILED} after 3 retries] HTTP 500: {answer}" if k == 0 else answer
        rows.append(utils.process_results(doc, [text])["surgbench"])
    assert utils.primary(rows) == 75.0
    assert utils.scores(rows).card["outcomes"] == {"api_error": 1, "ok": 3}
    assert rows[0]["error"].startswith(FAILED) and rows[0]["text"] == ""
    assert str(utils.scores(rows)).endswith("N 4 of 1 videos, answered 75%")


def test_the_yaml_turns_off_what_would_change_the_numbers(tmp_path, picture) -> None:
    samples = every_sample()
    paths = export(samples, pictures(samples, picture), tmp_path / "out", reasoning=True, max_new_tokens=77)
    utils = utils_of(tmp_path / "out")
    for path in paths:
        about = read_yaml(path)
        card = next(c for c in all_cards() if c.id == about["metadata"]["card"])
        assert about["task"] == path.stem == path.parent.name
        assert about["dataset_path"] == "parquet" and about["test_split"] == "test"
        assert (path.parent / about["dataset_kwargs"]["data_files"]["test"]).is_file()
        assert about["reasoning_tags"] == "none", "the default cuts <think> out before scoring"
        assert about["generation_kwargs"]["until"] == [], "the default stops at an empty line"
        assert about["generation_kwargs"]["max_new_tokens"] == 77
        assert about["num_fewshot"] == 0 and about["output_type"] == "generate_until"
        assert [m["metric"] for m in about["metric_list"]] == [card.primary, "surgbench"]
        assert about["metadata"]["simulated"] and about["metadata"]["policy"] == ["public"]
        # lmms-eval merges the metadata over these keys of its own.
        assert not {"task", "doc_id", "repeats", "split"} & about["metadata"].keys()
        functions = [about[k] for k in ("doc_to_visual", "doc_to_text", "process_results")]
        for name in functions + [m["aggregation"] for m in about["metric_list"]]:
            head, _, function = name.rpartition(".")
            assert (path.parent / f"{head}.py").resolve() == (tmp_path / "out/utils.py").resolve()
            assert callable(getattr(utils, function))
    group = read_yaml(tmp_path / "out" / "surgbench_simulated.yaml")
    assert group == {"group": "surgbench_simulated", "task": [p.stem for p in paths]}


def test_documents_are_complete(tmp_path, picture) -> None:
    """Every question once in the given order, with its picture and all facts of a prediction row."""
    from datasets import Dataset, load_dataset

    samples = every_sample(simulated=False)
    export(samples, pictures(samples, picture), tmp_path / "out", reasoning=True)
    seen = []
    for card in CARDS:
        file = tmp_path / "out" / f"surgbench_{card.replace('-', '_')}" / "test.parquet"
        found = load_dataset(
            "parquet", data_files={"test": str(file)}, split="test", cache_dir=str(tmp_path / "cache")
        )
        assert isinstance(found, Dataset)
        for doc in found:
            row = json.loads(doc["row"])
            read = {
                "text",
                "finish_reason",
                "error",
                "prediction",
                "outcome",
                "rung",
                "valid_format",
                "given",
            }
            assert row.keys() == Row.model_fields.keys() - read
            (shown,) = exported.doc_to_visual(doc)
            assert shown.size == (56, 28) and shown.getpixel((0, 0)) == (10, 20, 30)
            assert (row["size"], row["grid"]) == ([100, 50], [56, 28])
            assert row["image"] == "" and row["sample_id"] == doc["sample_id"]
            assert row["labels"]["tools"] == [] and row["labels"]["triplets"] is None
            assert row["answer"] == doc["answer"] and row["question"] in doc["prompt"]
            assert row["policy"] == "licence_restricted"
            seen.append(doc["sample_id"])
    assert seen == [s.sample_id for s in samples]


def test_a_bare_path_is_shown_as_stored(tmp_path) -> None:
    path = tmp_path / "x.jpg"
    Image.new("RGB", (100, 50)).save(path)
    (sample,) = samples_of("cholect50-localization", simulated=True)[:1]
    export([sample], {sample.sample_id: path}, tmp_path / "out", reasoning=False)
    (doc,) = documents(tmp_path / "out", "surgbench_simulated_cholect50_localization")
    row = json.loads(doc["row"])
    assert row["size"] == row["grid"] == [100, 50] and doc["image"].format == "JPEG"


def test_the_same_samples_give_the_same_bytes(tmp_path, picture) -> None:
    samples = every_sample()
    images = pictures(samples, picture)
    contents = []
    for name in ("a", "b"):
        export(samples, images, tmp_path / name, reasoning=True)
        files = [p for p in sorted((tmp_path / name).rglob("*")) if p.is_file()]
        contents.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in files})
    assert contents[0] == contents[1] and len(contents[0]) == 2 * len(CARDS) + 3
    assert str(tmp_path).encode() not in b"".join(contents[0].values()), "the folder may be moved"


def test_simulated_and_real_tasks_never_share_a_name_or_group(tmp_path, picture) -> None:
    samples = [
        *samples_of("cholec80-phase", simulated=False),
        *samples_of("cholec80-phase", simulated=True),
    ]
    paths = export(samples, pictures(samples, picture), tmp_path / "out", reasoning=True)
    assert [p.stem for p in paths] == ["surgbench_cholec80_phase", "surgbench_simulated_cholec80_phase"]
    assert read_yaml(tmp_path / "out/surgbench.yaml")["task"] == ["surgbench_cholec80_phase"]
    real, simulated = (read_yaml(p) for p in paths)
    assert "simulated" in simulated["task_alias"] and "simulated" not in real["task_alias"]
    assert real["metadata"]["policy"] == ["licence_restricted"]
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    for needed in ("not for\nclinical use", "simulated operations", "CC BY-NC-SA 4.0", "Do not pass"):
        assert needed.replace("\n", " ") in " ".join(text.split())


@pytest.mark.parametrize("policy", ["local_only", "public"])
def test_local_only_data_is_refused_before_a_picture_is_opened(tmp_path, policy) -> None:
    """A hospital's card is local_only whatever its samples say."""
    local = samples_of("cholec80-phase", simulated=True)
    hospital = [replace(s, dataset="renji", policy=policy) for s in local]
    with pytest.raises(PolicyError, match=r"renji \(12 questions\)"):
        export([*local, *hospital], {}, tmp_path / "out", reasoning=True)
    assert list(tmp_path.iterdir()) == []


def test_local_only_samples_of_a_public_card_are_refused(tmp_path) -> None:
    samples = [replace(s, policy="local_only") for s in samples_of("cholec80-phase", simulated=False)]
    with pytest.raises(PolicyError, match=r"cholec80 \(12 questions\)"):
        export(samples, {}, tmp_path / "out", reasoning=True)


def test_what_cannot_be_exported_is_named_and_leaves_nothing(tmp_path, picture) -> None:
    samples = samples_of("cholec80-phase", simulated=True)
    images = pictures(samples, picture)
    strange = replace(samples[0], dataset="sim-elsewhere")
    gone = PreparedImage(tmp_path / "gone.png", 56, 28, 100, 50)
    broken = picture.path.parent / "broken.png"
    broken.write_bytes(picture.path.read_bytes()[:40])
    first = samples[0].sample_id

    def refused(error: type[SurgR1Error], message: str, *arguments, **options) -> None:
        with pytest.raises(error, match=message):
            export(*arguments, **({"reasoning": True} | options))
        assert list(tmp_path.iterdir()) == []

    out = tmp_path / "out"
    refused(LmmsEvalError, "sim-elsewhere phase_recognition", [strange], images, out)
    refused(LmmsEvalError, "no sample", [], images, out)
    refused(LmmsEvalError, f"{first} stands twice", [samples[0], samples[0]], images, out)
    refused(LmmsEvalError, f"{first} .* no picture", samples, {}, out)
    refused(ImageError, "gone.png", samples, images | {first: gone}, out)
    refused(ImageError, "broken.png", samples, images | {first: broken}, out)
    refused(LmmsEvalError, "system", samples, images, out, asking=Asking(system="Be brief."))
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(LmmsEvalError, match="not empty"):
        export(samples, images, out, reasoning=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_tasks_exported_with_another_answer_list_are_not_scored(tmp_path, picture) -> None:
    samples = samples_of("cholec80-phase", simulated=True)
    export(samples, pictures(samples, picture), tmp_path / "out", reasoning=True)
    file = tmp_path / "out" / "utils.py"
    now = next(c for c in all_cards() if c.id == "cholec80-phase").vocabulary_hash
    file.write_text(file.read_text().replace(now, "0123456789abcdef"))
    with pytest.raises(LmmsEvalError, match="cholec80-phase; export them again"):
        utils_of(tmp_path / "out")


def test_this_module_needs_no_lmms_eval() -> None:
    assert "lmms_eval" not in sys.modules or importlib.util.find_spec("lmms_eval") is not None
    assert "import lmms_eval" not in Path(exported.__file__).read_text(encoding="utf-8")


def run_lmms_eval(folder: Path, tasks: list[str], texts: dict[str, str], chat: bool) -> dict:
    """lmms-eval's own evaluation with its command line's defaults, of a model that returns `texts`."""
    from lmms_eval.__main__ import parse_eval_args
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lmms-eval"])
        _, arguments = parse_eval_args()
    assert "<think>" in arguments.reasoning_tags, "what the exported tasks turn off"

    class Model(lmms):
        is_simple = not chat

        def generate_until(self, requests):
            found = []
            for request in requests:
                if chat:
                    _, to_messages, options, index, task, split = request.args
                    doc = self.task_dict[task][split][index]
                    ((turn),) = to_messages(doc)
                    *visuals, text = [part.get("text", part.get("url")) for part in turn["content"]]
                else:
                    text, options, to_visual, index, task, split = request.args
                    doc = self.task_dict[task][split][index]
                    visuals = to_visual(doc)
                assert text == doc["prompt"] and [v.size for v in visuals] == [(56, 28)]
                assert options["until"] == [] and options["max_new_tokens"] == 1024
                found.append(texts[doc["sample_id"]])
            return found

        def loglikelihood(self, requests):
            raise NotImplementedError

        def generate_until_multi_round(self, requests):
            raise NotImplementedError

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(
        model=Model(), tasks=tasks, task_manager=manager, cli_args=arguments, log_samples=True
    )


@pytest.mark.parametrize("chat", [False, True], ids=["simple", "chat"])
def test_lmms_eval_itself_gives_our_numbers(tmp_path, picture, monkeypatch, chat) -> None:
    """The real program on a moved folder, `<think>` stripping on as its command line has it."""
    pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed; see docs/lmms-eval.md")
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "cache"))
    samples = every_sample()
    images, texts = pictures(samples, picture), scripted(samples, seed=1)
    texts[samples[0].sample_id] = f"{FAILED} after 3 retries] HTTP 500: <answer>{samples[0].answer}</answer>"
    export(samples, images, tmp_path / "made", reasoning=True)
    folder = (tmp_path / "made").rename(tmp_path / "moved")
    found = run_lmms_eval(folder, ["surgbench_simulated"], texts, chat)
    ours = our_rows(samples, images, texts, tmp_path)
    expected = {c["id"]: c for c in score(ours, name="ours")["cards"]}
    for card in CARDS:
        task = f"surgbench_simulated_{card.replace('-', '_')}"
        result, mine = found["results"][task], expected[card]
        primary = mine["primary"]
        assert result["surgbench,none"].card == mine
        assert result[f"{primary},none"] == mine["metrics"][primary]["value"]
        logged = {s["surgbench"]["sample_id"]: s["surgbench"] for s in found["samples"][task]}
        assert logged == {r["sample_id"]: r for r in ours if r["sample_id"] in logged}
        assert len(logged) == mine["n"]
        print(task, primary, result[f"{primary},none"], "ours", mine["metrics"][primary]["value"])
