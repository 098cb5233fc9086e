"""Causal probes with engines whose behaviour is known: one reads only the picture, one copies its own
reasoning, one concludes from the last level.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from surgr1.bench.predictions import judge, read_predictions
from surgr1.bench.probes import (
    FLOORS,
    KINDS,
    ProbeError,
    probe_requests,
    probe_scores,
    run_probes,
    select_rows,
)
from surgr1.bench.runner import Asking, predict
from surgr1.corpora.grid import ImageError, PreparedImage
from surgr1.corpora.schema import Labels, Sample
from surgr1.engines.guard import PolicyError, check_policy
from surgr1.engines.types import Completion, Sampling
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.trace import parse

PHASES = vocabulary("cholec80", "phase").names
TOOLS = vocabulary("cholec80", "tool").names


class Mock:
    """Answers with `answer(request)`; from scratch it writes the trace of `reason(request)` before."""

    name, model = "mock", "m"

    def __init__(self, answer, reason=None, limit=None, fail=False):
        self.answer, self.reason = answer, reason or (lambda request: ["A grasper.", "It retracts.", "So."])
        self.limit, self.fail, self.asked = limit, fail, []

    def generate(self, requests, sampling):
        assert (sampling.n, sampling.first) == (1, 0)
        for request in requests:
            if len(self.asked) == self.limit:
                raise KeyboardInterrupt
            self.asked.append(request)
            text = f"{self.answer(request)}</answer>"
            if not request.prefix:
                levels = "\n".join(f"Level {k}: {x}" for k, x in enumerate(self.reason(request), start=1))
                text = f"<think>{levels}</think>\n<answer>{text}"
            if self.fail:
                yield request, [Completion("", "error", 0, 0, 0.0, 1, "mock", "m", "down")]
            else:
                yield request, [Completion(text, "stop", 1, 1, 0.0, 1, "mock", "m")]


def look(request):
    """The phase that the picture's colour stands for; an even grey stands for none."""
    with Image.open(request.images[0]) as picture:
        red, green, blue = picture.convert("RGB").getpixel((0, 0))
    return "nothing to see" if red == green == blue else PHASES[red // 10]


def questions(
    folder, task=Task.PHASE_RECOGNITION, videos=7, frames=4, policy="public", dataset="sim-cholec80"
):
    """Samples of which every frame of a video has the same answer, and their pictures."""
    folder.mkdir(exist_ok=True)
    samples, images = [], {}
    for v in range(videos):
        for f in range(frames):
            path = folder / f"{v}-{f}.png"
            Image.new("RGB", (56, 28), (10 * (v % 7), 200, f)).save(path)
            names = PHASES if task is Task.PHASE_RECOGNITION else TOOLS
            s = Sample(
                dataset, "c", "laparoscopic cholecystectomy", f"sim:{v}", f"v{v}", f, float(f), path.name,
                112, 56, task, "Which?", names, "open", "", names[v % 7], Labels(), "test", "test", policy,
                "",
            )  # fmt: skip
            samples.append(s)
            images[s.sample_id] = PreparedImage(path, 56, 28, 112, 56)
    return samples, images


def predicted(folder, engine, asking=None, **how):
    samples, images = questions(folder / "pictures", **how)
    out = folder / "predictions.jsonl"
    predict(samples, images, engine, out, reasoning=True, sampling=Sampling(), asking=asking)
    return list(read_predictions(out))


def changed(table):
    return {k: v["changed"]["value"] for k, v in table["probes"].items()}


# --- What the probes find ---


def test_an_engine_that_reads_only_the_picture(tmp_path) -> None:
    engine = Mock(look)
    table = run_probes(predicted(tmp_path, engine), engine, Sampling(), tmp_path / "probes", draws=50)
    found = changed(table)
    assert [found[k] for k in ("identity", "level1", "level2", "tool_swap", "repeat")] == [0] * 5
    assert found["image_swap"] == found["blank"] == 100
    swap = table["probes"]["image_swap"]
    assert swap["to_wrong"]["value"] == 100 and swap["to_right"]["value"] == 0
    assert (swap["n"], swap["videos"], swap["failed"], table["selected"]) == (28, 7, 0, 28)
    assert swap["floor"]["value"] == 0 and swap["excess"]["value"] == 100


def copy_tool(request):
    level = parse((request.prefix or "<think>Level 1: A grasper.</think><answer>") + "x</answer>").levels[1]
    return next((t for t in TOOLS if t in level.lower()), "none")


def test_an_engine_that_copies_its_reasoning_and_ignores_the_picture(tmp_path) -> None:
    engine = Mock(copy_tool, reason=lambda request: ["I see a grasper with two long fenestrated jaws."])
    rows = predicted(tmp_path, engine, task=Task.TOOL_RECOGNITION)
    table = run_probes(rows, engine, Sampling(), tmp_path / "probes", draws=50)
    found = changed(table)
    assert found["tool_swap"] == 100
    assert [found[k] for k in ("identity", "repeat", "blank", "image_swap")] == [0] * 4
    swap = table["probes"]["tool_swap"]
    right = 100 * sum(r["prediction"] == r["answer"] for r in rows) / len(rows)
    assert swap["to_wrong"]["value"] == pytest.approx(right) and right == pytest.approx(100 / 7)
    assert swap["excess"]["value"] == 100
    # One level is the whole trace of this task: there is nothing to cut.
    assert table["probes"]["level1"]["n"] == table["probes"]["level2"]["n"] == 0
    assert found["level1"] is None


def test_an_engine_that_concludes_from_the_last_level(tmp_path) -> None:
    def conclude(request):
        text = request.prefix or "Level 3"
        return PHASES[1] if "Level 3" in text else PHASES[2] if "Level 2" in text else PHASES[3]

    engine = Mock(conclude)
    table = run_probes(predicted(tmp_path, engine), engine, Sampling(n=3), tmp_path / "probes", draws=50)
    found = changed(table)
    assert found["level1"] == found["level2"] == 100 and found["identity"] == found["tool_swap"] == 0
    # Video 3's answer is what the engine says after Level 1 alone, video 2's after Level 2.
    level1 = table["probes"]["level1"]
    assert level1["to_right"]["value"] == level1["to_wrong"]["value"] == pytest.approx(100 / 7)


# --- What is sent ---


def one_row(tmp_path, text, **facts):
    (row, *_) = predicted(tmp_path, Mock(look), videos=1, frames=1)
    return judge(row | {"text": text} | facts)


def prefix(row, kind, tmp_path):
    found = probe_requests([row], kind, tmp_path / "grey")
    return found[0].prefix if found else None


TEXT = (
    "<think>This is a Level 3 task.\n**Level 1:** A hook, see.\n\n**Level 2 (relations):** It dissects.\n"
    "**Level 3:** So.\n</think>\n\n<answer>preparation</answer>"
)


def test_cuts_keep_the_models_own_words(tmp_path) -> None:
    row = one_row(tmp_path, TEXT)
    end = "</think>\n\n<answer>"
    assert prefix(row, "identity", tmp_path) == TEXT.removesuffix("preparation</answer>")
    start = "<think>This is a Level 3 task.\n**Level 1:** A hook, see."
    assert prefix(row, "level1", tmp_path) == start + end
    assert prefix(row, "level2", tmp_path) == f"{start}\n\n**Level 2 (relations):** It dissects.{end}"
    echo = one_row(tmp_path, TEXT.replace("A hook, see.", "task"))
    assert prefix(echo, "level1", tmp_path) == start.replace("A hook, see.", "task") + end


@pytest.mark.parametrize(
    "text",
    [
        "Level 1: A hook.\nLevel 2: a\nLevel 3: b<answer>preparation</answer>",
        "<think>Level 1: A hook.\nLevel 2: a\nLevel 3: b</think>preparation",
        "<think></think><answer>preparation</answer>",
        "<think>Level 1: A hook.\nLevel 2: a\nLevel 3: b</think><answer>no idea</answer>",
        "<think>Level 1: A hook.\nLevel 2: a</think><answer>preparation</answer><answer>preparation</answer>",
    ],
)
def test_a_trace_without_its_form_or_answer_is_not_forced(text, tmp_path) -> None:
    row = one_row(tmp_path, text)
    assert [prefix(row, k, tmp_path) for k in ("identity", "level1", "tool_swap")] == [None] * 3


def test_only_traces_with_headings_are_cut(tmp_path) -> None:
    headless = one_row(tmp_path, "<think>A hook dissects.</think><answer>preparation</answer>")
    assert prefix(headless, "level1", tmp_path) is None and prefix(headless, "identity", tmp_path)
    mixed = one_row(tmp_path, "<think>Level 2: A hook.\nLevel 1: b</think><answer>preparation</answer>")
    assert prefix(mixed, "level1", tmp_path) is None


def test_a_tool_is_replaced_throughout_with_article_plural_and_looks(tmp_path) -> None:
    text = (
        "<think>Level 1: A hook with thin L-shaped tip, an electric hook. No clipper, no grasper, no"
        " scissors, no irrigator.\nLevel 2: The Hook dissects; hooks. Unhooked.\nLevel 3: So.</think>"
        "<answer>preparation</answer>"
    )
    found = prefix(one_row(tmp_path, text), "tool_swap", tmp_path)
    assert found == (
        "<think>Level 1: A bipolar with two flat parallel jaws without fenestrations, a bipolar. No clipper,"
        " no grasper, no scissors, no irrigator.\nLevel 2: The Bipolar dissects; bipolars. Unhooked.\n"
        "Level 3: So.</think><answer>"
    )


def test_a_replaced_tool_is_new_to_the_trace_and_never_a_bag(tmp_path) -> None:
    every = "A grasper, a bipolar, a hook, scissors, a clipper and an irrigator."
    text = "<think>Level 1: {}\nLevel 2: a\nLevel 3: b</think><answer>preparation</answer>".format
    assert prefix(one_row(tmp_path, text(every)), "tool_swap", tmp_path) is None
    assert prefix(one_row(tmp_path, text("No hook.")), "tool_swap", tmp_path) is None
    vowel = prefix(one_row(tmp_path, text(every.replace(" and an irrigator", ""))), "tool_swap", tmp_path)
    assert "an irrigator" in vowel or "An irrigator" in vowel or ", irrigator," in vowel
    both = text("A bipolar grasper and a grasper.")
    swapped = prefix(one_row(tmp_path, both), "tool_swap", tmp_path)
    assert swapped.count("bipolar grasper") + len(re.findall(r"(?<!bipolar )grasper", swapped)) == 1


def test_a_tool_of_the_answer_is_replaced_first(tmp_path) -> None:
    engine = Mock(lambda request: "clipper", reason=lambda request: ["A grasper, a hook and a clipper."])
    rows = predicted(tmp_path, engine, task=Task.TOOL_RECOGNITION)
    found = probe_requests(rows, "tool_swap", tmp_path)
    assert len(found) == 28 and all("A grasper, a hook and a" in r.prefix for r in found)
    assert not any("clipper" in r.prefix for r in found)


def test_the_blank_picture_is_even_of_the_same_size_and_brightness(tmp_path) -> None:
    row = one_row(tmp_path, TEXT)
    half = tmp_path / "half.png"
    picture = Image.new("RGB", (40, 20), (0, 0, 0))
    picture.paste((200, 200, 200), (0, 0, 20, 20))
    picture.save(half)
    for _ in range(2):
        (request,) = probe_requests([row | {"image": str(half)}], "blank", tmp_path / "grey")
    with Image.open(request.images[0]) as grey:
        assert grey.size == (40, 20) and grey.getcolors() == [(800, (100, 100, 100))]
    assert len(list((tmp_path / "grey").iterdir())) == 1 and request.prefix == ""
    with pytest.raises(ImageError, match=r"gone\.png"):
        probe_requests([row | {"image": str(tmp_path / "gone.png")}], "blank", tmp_path / "grey")


def test_the_swapped_picture_is_another_videos_and_its_policy_holds(tmp_path) -> None:
    rows = predicted(tmp_path, Mock(look), videos=8)
    by_image = {r["image"]: r for r in rows}
    for request in probe_requests(rows, "image_swap", tmp_path):
        row = next(r for r in rows if request.request_id == f"{r['sample_id']}:image_swap")
        donor = by_image[str(request.images[0])]
        assert donor["video"] != row["video"] and donor["answer"] != row["answer"]
        assert request.policy == "public" and request.prefix == ""
    strict = [r | {"policy": "local_only"} if r["video"] == "v1" else r for r in rows if r["video"] < "v2"]
    assert {r.policy for r in probe_requests(strict, "image_swap", tmp_path)} == {"local_only"}
    mixed = [r | {"policy": "licence_restricted"} if r["video"] == "v0" else r for r in strict]
    assert {r.policy for r in probe_requests(mixed, "image_swap", tmp_path)} == {"local_only"}
    alike = [r for r in rows if r["video"] in ("v0", "v7")]
    assert len(probe_requests(alike, "image_swap", tmp_path)) == 8, "the same answer where there is no other"
    assert probe_requests(rows[:4], "image_swap", tmp_path) == [], "one video alone has no donor"


def test_every_request_is_the_rows_own_but_for_the_change(tmp_path) -> None:
    asking = Asking(system="You are a surgeon.", one_shot=True)
    engine = Mock(look)
    rows = predicted(tmp_path, engine, asking=asking, policy="local_only")
    for kind in KINDS:
        found = probe_requests(rows, kind, tmp_path / "grey", asking)
        assert len(found) == len(rows)
        for request in found:
            assert request.policy == "local_only" and request.system == "You are a surgeon."
            assert (request.prompt, request.system) == (engine.asked[0].prompt, engine.asked[0].system)
            assert bool(request.prefix) is (kind in ("identity", "level1", "level2", "tool_swap"))
    with pytest.raises(ProbeError, match="another form"):
        probe_requests(rows, "repeat", tmp_path, Asking())
    with pytest.raises(ProbeError, match="image, size and grid"):
        probe_requests([rows[0] | {"grid": None}], "repeat", tmp_path, asking)


def test_a_guarded_engine_refuses_before_it_answers(tmp_path) -> None:
    rows = predicted(tmp_path, Mock(look), policy="local_only")

    class Guarded(Mock):
        def generate(self, requests, sampling):
            for request in requests:
                check_policy(request.policy, "http://8.8.8.8/v1")
            yield from super().generate(requests, sampling)

    engine = Guarded(look)
    with pytest.raises(PolicyError):
        run_probes(rows, engine, Sampling(), tmp_path / "probes", draws=20)
    assert engine.asked == []


# --- Selection, resuming, scores ---


def test_the_same_questions_are_chosen_whatever_was_written(tmp_path) -> None:
    rows = predicted(tmp_path, Mock(look))
    ids = [r["sample_id"] for r in select_rows(rows, 10)]
    assert len(set(ids)) == 10 and len(select_rows(rows)) == 28
    silent = [judge(r | {"text": "nothing"}) for r in reversed(rows)]
    assert [r["sample_id"] for r in select_rows(silent, 10)] == ids
    assert [r["sample_id"] for r in select_rows(rows, 10, seed=1)] != ids
    assert select_rows([r | {"reasoning": False} for r in rows]) == []
    assert select_rows([r | {"sample_index": 1} for r in rows]) == []


def test_a_killed_run_continues_and_scores_the_same(tmp_path) -> None:
    rows = predicted(tmp_path, Mock(look))
    whole = run_probes(rows, Mock(look), Sampling(), tmp_path / "whole", draws=50)
    total = sum(p["n"] for p in whole["probes"].values())
    out = tmp_path / "probes"
    with pytest.raises(KeyboardInterrupt):
        run_probes(rows, Mock(look, limit=40), Sampling(), out, draws=50)
    with (out / "probes.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    failing = Mock(look, fail=True)
    partial = run_probes(rows, failing, Sampling(), out, draws=50)
    assert len(failing.asked) == total - 40
    assert sum(p["failed"] for p in partial["probes"].values()) == total - 40
    steps = []
    last = Mock(look)
    table = run_probes(
        rows, last, Sampling(), out, draws=50, progress=lambda done, of: steps.append((done, of))
    )
    assert len(last.asked) == total - 40 and steps[-1] == (total, total)
    assert table == whole
    idle = Mock(look)
    assert run_probes(rows, idle, Sampling(), out, draws=50) == whole and idle.asked == []
    lines = [json.loads(x) for x in (out / "probes.jsonl").read_text().splitlines()]
    assert len(lines) == total and all(x["text"].startswith("<think>") for x in lines)
    other = Mock(look)
    run_probes(rows, other, Sampling(max_new_tokens=9), out, draws=50)
    assert len(other.asked) == total, "other sampling, other answers"


def test_a_damaged_file_and_another_models_rows_are_refused(tmp_path) -> None:
    rows = predicted(tmp_path, Mock(look), videos=2, frames=1)
    out = tmp_path / "probes"
    out.mkdir()
    (out / "probes.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(ProbeError, match=r"probes\.jsonl:1"):
        run_probes(rows, Mock(look), Sampling(), out)
    engine = Mock(look)
    engine.model = "another"
    with pytest.raises(ProbeError, match="another"):
        run_probes(rows, engine, Sampling(), tmp_path / "elsewhere")


def given(row, answer, finish_reason="stop"):
    return judge(row | {"text": f"<think>x</think><answer>{answer}</answer>", "finish_reason": finish_reason})


def test_scores_by_hand(tmp_path) -> None:
    engine = Mock(lambda request: PHASES[0])
    rows = predicted(tmp_path, engine, frames=1, videos=7)
    # v0 is right, the others are wrong.
    row = {r["video"]: r for r in rows}
    answers = {
        "identity": {r["sample_id"]: given(r, PHASES[0]) for r in rows if r["video"] != "v6"},
        "level1": {
            row["v0"]["sample_id"]: given(row["v0"], PHASES[3]),
            row["v1"]["sample_id"]: given(row["v1"], PHASES[1]),
            row["v2"]["sample_id"]: given(row["v2"], PHASES[0]),
            row["v3"]["sample_id"]: given(row["v3"], "no idea"),
            row["v4"]["sample_id"]: given(row["v4"], "", "error"),
            row["v6"]["sample_id"]: given(row["v6"], PHASES[2]),
        },
    }
    answers["identity"][row["v1"]["sample_id"]] = given(row["v1"], PHASES[2])
    answers["identity"][row["v2"]["sample_id"]] = given(row["v2"], "", "error")
    table = probe_scores(rows, answers, draws=200)
    level1 = table["probes"]["level1"]
    assert (level1["n"], level1["failed"], level1["videos"], table["selected"]) == (5, 1, 5, 7)
    assert level1["changed"]["value"] == 80, "an answer that can no longer be read has changed"
    assert level1["to_wrong"]["value"] == 20 and level1["to_right"]["value"] == 20
    # Paired with an identity answer: v0, v1, v3; v2's failed, v6 has none.
    assert level1["floor"]["value"] == pytest.approx(100 / 3)
    assert level1["excess"]["value"] == pytest.approx(100 - 100 / 3)
    assert "unreliable" in level1["warnings"][0]
    assert table["probes"]["identity"]["floor"]["value"] is None
    alone = probe_scores(rows, {"level1": answers["level1"]}, draws=20)["probes"]["level1"]
    assert alone["excess"] == {"value": None, "low": None, "high": None}


def test_intervals_resample_videos(tmp_path) -> None:
    rows = predicted(tmp_path, Mock(look), frames=20)
    # Every answer of three of seven videos changes.
    answers = {
        "repeat": {
            r["sample_id"]: given(r, "no idea" if r["video"] < "v3" else r["prediction"]) for r in rows
        }
    }
    found = probe_scores(rows, answers, draws=500)["probes"]["repeat"]["changed"]
    single = [replace_video(r, k) for k, r in enumerate(rows)]
    frames = probe_scores(single, answers, draws=500)["probes"]["repeat"]["changed"]
    assert found["value"] == frames["value"] == pytest.approx(300 / 7)
    assert found["high"] - found["low"] > 3 * (frames["high"] - frames["low"])


def replace_video(row, k):
    return row | {"video": f"own-{k}"}


def test_boxes_change_when_they_no_longer_overlap(tmp_path) -> None:
    engine = Mock(lambda request: "(4,4),(20,20)", reason=lambda request: ["A grasper at the left-top."])
    samples, images = questions(tmp_path / "pictures", videos=2, frames=1)
    boxes = [
        replace(
            s, task=Task.TOOL_LOCALIZATION, focus="grasper", options=(), answer="(8,8),(40,40)", sample_id=""
        )
        for s in samples
    ]
    pictures = dict(zip((s.sample_id for s in boxes), images.values(), strict=True))
    out = tmp_path / "predictions.jsonl"
    predict(boxes, pictures, engine, out, reasoning=True, sampling=Sampling())
    rows = list(read_predictions(out))
    assert [r["prediction"] for r in rows] == ["(8,8),(40,40)"] * 2, "grid to stored pixels"
    near, far = Mock(lambda request: "(4,4),(20,18)"), Mock(lambda request: "(30,4),(50,20)")
    for engine, rate in ((near, 0), (far, 100)):
        table = run_probes(
            rows, engine, Sampling(), tmp_path / f"probes{rate}", kinds=("identity",), draws=20
        )
        assert table["probes"]["identity"]["changed"]["value"] == rate
        assert table["probes"]["identity"]["to_wrong"]["value"] == rate


def test_every_probe_has_a_floor_or_is_one() -> None:
    assert set(FLOORS) | set(FLOORS.values()) == set(KINDS)
    assert not np.isin(list(FLOORS.values()), list(FLOORS)).any()
