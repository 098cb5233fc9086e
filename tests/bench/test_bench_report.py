"""The page in a real browser: it fits, filters, opens samples by keyboard, escapes, loads only what is looked
at, and needs no network.
"""

import json
import re
import shutil
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chromium import Chromium
from surgr1.bench import charts
from surgr1.bench.cards import card_of
from surgr1.bench.predictions import main_rows, read_predictions, usage
from surgr1.bench.report import ReportError, ReportInput, Stage, model_page, read_model, write_report
from surgr1.bench.report_samples import CHUNK, write_samples

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
OUTCOMES = ("ok", "repaired", "ambiguous", "oov", "refused", "empty", "truncated", "blocked", "api_error")


# --- A page to look at ----------------------------------------------------------------------------


def predictions(
    folder: Path,
    model: str,
    skill: float,
    questions: int,
    datasets=("cholec80", "sar-rarp50", "multibypass140", "cholect50", "strasbourg", "renji", "west-china"),
    prefix: str = "sim-",
    seed: int = 0,
) -> Path:
    """`questions` rows over the datasets, seven videos each; `model` is right with probability `skill`."""
    rng = np.random.default_rng([seed, len(model)])
    tasks = {
        "cholec80": "phase_recognition",
        "sar-rarp50": "action_recognition",
        "multibypass140": "phase_recognition",
        "cholect50": "tool_localization",
        "strasbourg": "phase_recognition",
        "renji": "phase_recognition",
        "cuhk": "action_recognition",
        "west-china": "cvs_criteria_assessment",
    }
    images = folder.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    for k in range(40):
        if not (images / f"{k}.png").is_file():
            tones = np.random.default_rng(k).integers(40, 200, (7, 12, 3), dtype=np.uint8)
            Image.fromarray(tones).resize((252, 140)).save(images / f"{k}.png")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "predictions.jsonl"
    with path.open("w") as file:
        for n in range(questions):
            dataset = datasets[n % len(datasets)]
            k, task = n // len(datasets), tasks[dataset]
            options = list(card_of(dataset, task).labels)
            focus = ""
            if task == "tool_localization":
                focus, truth = "grasper", f"({20 + k % 60},{30 + k % 40}),({120 + k % 60},{100 + k % 40})"
                wrong = f"({150 + k % 60},10),({240},60)"
            else:
                focus = f"C{k % 3 + 1}" if task == "cvs_criteria_assessment" else ""
                truth, wrong = options[k % len(options)], options[(k + 1) % len(options)]
            given = truth if rng.random() < skill else wrong
            level = {"action_recognition": 2, "phase_recognition": 3}.get(task, 1)
            words = [
                f"Level {i}: {EVIL if k % 9 == 0 else 'The grasper holds the gallbladder.'}"
                for i in range(1, level + 1)
            ]
            text = f"<think>{chr(10).join(words)}</think><answer>{given}</answer>"
            reason, luck = "stop", rng.random()
            if luck < 0.03:
                text = f"I think it is {given}"
            elif luck < 0.05:
                text = "I cannot say what a zebra does here"
            elif luck < 0.06:
                text, reason = "<think>Level 1: on and on", "length"
            elif luck < 0.08 and model == "flaky":
                text, reason = "", "error"
            row = {
                "sample_id": f"{dataset}-{k:05d}",
                "dataset": prefix + dataset,
                "centre": {"sar-rarp50": "ucl", "cuhk": "cuhk", "renji": "renji"}.get(dataset, "strasbourg"),
                "video": f"v{k % 7}",
                "frame": k,
                "task": task,
                "focus": focus,
                "question": EVIL if k % 9 == 0 else "Which surgical phase is being performed?",
                "answer": truth,
                "options": options,
                "policy": "local_only" if dataset == "renji" and not prefix else "public",
                "labels": {"tools": ["grasper", "hook"], "phase": "preparation"},
                "image": str(images / f"{k % 40}.png"),
                "size": [252, 140],
                "grid": [252, 140],
                "text": text,
                "finish_reason": reason,
                "tokens_in": 200,
                "tokens_out": 60,
                "latency_s": 0.1 + 0.01 * (n % 17),
                "model": model,
                "reasoning": True,
            }
            file.write(json.dumps(row) + "\n")
    return path


def scores_by_hand(path: Path, name: str, *, prompt: str = "a1b2", draws: int = 50) -> dict:
    """scores.json in the form of bench/scoring.py, from shares alone: enough to show."""
    rows = main_rows(read_predictions(path))
    cards = {}
    for row in rows:
        cards.setdefault((row["dataset"], row["task"]), []).append(row)
    body = []
    for (dataset, task), mine in cards.items():
        card = card_of(dataset, task)
        answered = [r for r in mine if r["prediction"] is not None]
        right = [r for r in answered if r["prediction"] == r["answer"]]
        value = 100 * len(right) / len(mine)
        counts = Counter(r["answer"] for r in mine)
        floor = 0.0 if card.kind == "box" else 100 * max(counts.values()) / len(mine)
        labels = list(card.labels) if card.kind == "label" else []
        confusion = [
            [sum(r["answer"] == a and r["prediction"] == p for r in mine) for p in [*labels, None]]
            for a in labels
        ]
        names = {
            "label": ("accuracy", "precision", "recall", "jaccard", "f1"),
            "cvs": ("pooled", "average", "c1", "c2", "c3", "joint"),
        }.get(card.kind, ("miou", "acc50", "acc75"))
        metrics = {
            m: {"value": value - i, "low": max(0, value - i - 6), "high": min(100, value - i + 6)}
            for i, m in enumerate(names)
        }
        if "jaccard" in metrics:
            metrics["jaccard"] = {"value": None, "low": None, "high": None}
        few = dataset == "sim-renji"
        centre = {"n": len(mine), "videos": 7, "value": value, "low": value - 5, "high": value + 5}
        body.append(
            {
                "id": card.id,
                "title": card.title,
                "dataset": dataset,
                "group": card.group,
                "task": task,
                "kind": card.kind,
                "primary": card.primary,
                "n": len(mine),
                "videos": 4 if few else len({r["video"] for r in mine}),
                "metrics": metrics,
                "floor": floor,
                "floors": {card.primary: floor},
                "chance": 100 / len(labels) if labels else 0.0,
                "lift": (value - floor) / (100 - floor),
                "outcomes": dict(Counter(r["outcome"] for r in mine)),
                "rungs": dict(Counter(r["rung"] for r in mine)),
                "coverage": len(answered) / len(mine),
                "answered_only": 100 * len(right) / max(1, len(answered)),
                "sensitivity": {"strict": value - 1, "repaired": value, "fuzzy": value + 0.5},
                "valid_format": sum(r["valid_format"] for r in mine) / len(mine),
                "labels": labels,
                "confusion": confusion,
                "class_counts": dict(counts),
                "warnings": ["4 videos: the cluster interval is unreliable under 6"] if few else [],
                "per_video": {f"v{v}": value + v - 3 for v in range(4)},
                "centres": [
                    {"centre": c, "seen": c == "strasbourg", **centre}
                    for c in sorted({r["centre"] for r in mine})
                ],
                "stamp": {
                    "protocol": "open",
                    "questions": prompt,
                    "form": "plain",
                    "frames": f"f-{card.id}",
                    "vocabulary": "v1",
                },
                "asked": {"reasoning": "levels", "prompts": prompt},
                "usage": usage(mine),
            }
        )
    arena = {}
    for group in ("public", "external"):
        mine = [c for c in body if c["group"] == group]
        if mine:
            value = sum(c["metrics"][c["primary"]]["value"] for c in mine) / len(mine)
            floor = sum(c["floor"] for c in mine) / len(mine)
            lift = sum(c["lift"] for c in mine) / len(mine)
            tasks = sorted(c["id"] for c in mine)
            bounds = {"low": value - 3, "high": value + 3, "floor": floor, "lift": lift}
            arena[group] = {"value": value, **bounds, "tasks": tasks, "missing": []}
    return {
        "name": name,
        "model": name,
        "draws": draws,
        "seed": 0,
        "predictions": len(rows),
        "simulated": all(r["dataset"].startswith("sim-") for r in rows),
        "valid_format": sum(r["valid_format"] for r in rows) / len(rows),
        "cards": body,
        "arena": arena,
    }


def model_folder(root: Path, name: str, skill: float, questions: int, prompt="a1b2", **rows) -> Path:
    """A folder as `surgr1 bench ask` leaves it."""
    folder = root / name
    path = predictions(folder, name, skill, questions, **rows)
    (folder / "scores.json").write_text(json.dumps(scores_by_hand(path, name, prompt=prompt)))
    return folder


# --- A browser ------------------------------------------------------------------------------------


class Browser(Chromium):
    """The report's page."""

    def open(self, url: str, width: int = 1366, height: int = 900, *, dark: bool = False) -> None:
        """Load a page and wait until its samples are there."""
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        for address in ("about:blank", url):
            self.events.clear()
            self.call("Page.navigate", url=address)
            while all(e["method"] != "Page.loadEventFired" for e in self.events):
                self.events.append(self.message())
        self.wait(
            "document.documentElement.dataset.ready"
            " || document.getElementById('count').textContent.includes('not in')"
        )

    def wait(self, condition: str) -> None:
        found = self.run(
            "new Promise((yes, no) => { let n = 0; const look = () => {"
            f" if ({condition}) yes(true); else if (++n > 600) no(new Error('waited 30 s'));"
            " else setTimeout(look, 50); }; look(); })"
        )
        assert found is True

    def key(self, key: str) -> None:
        codes = {
            "Enter": 13,
            "Escape": 27,
            "ArrowRight": 39,
            "ArrowLeft": 37,
            "ArrowDown": 40,
            "ArrowUp": 38,
            "/": 191,
            "Tab": 9,
        }
        text = {"Enter": "\r", "/": "/"}.get(key)
        extra = {"text": text} if text else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=codes[key], **extra
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=codes[key])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Four models on 350 questions: one with failed requests, one asked with another prompt."""
    root = tmp_path_factory.mktemp("models")
    folders = [
        model_folder(root, "base", 0.3, 350),
        model_folder(root, "better", 0.8, 350),
        model_folder(root, "flaky", 0.5, 350),
        model_folder(root, "native", 0.6, 350, prompt="another"),
    ]
    bins = [
        {"low": b / 10, "high": b / 10 + 0.1, "n": 9, "confidence": b / 10 + 0.05, "accuracy": b / 10}
        for b in range(10)
    ]
    (folders[0] / "calibration.json").write_text(json.dumps({"ece": 0.08, "brier": 0.2, "bins": bins}))
    rate = {"value": 71.2, "low": 60.0, "high": 80.0, "n": 300}
    groups = [{"dataset": "sim-cholec80", "task": "phase_recognition", "metrics": {"tool_precision": rate}}]
    (folders[1] / "reasoning.json").write_text(json.dumps({"groups": groups}))
    nothing = {"value": None, "low": None, "high": None}
    probe = {"n": 200, "changed": rate | {"value": 41.5}, "to_wrong": rate, "excess": nothing}
    (folders[1] / "probes.json").write_text(json.dumps({"selected": 200, "probes": {"blank": probe}}))
    refuted = [{"kind": "tool", "reason": "is not there", "n": 4, "example": EVIL, "sample_id": "x"}]
    said = {"traces": 90, "metrics": {"supported": 0.625, "omitted": None}, "refuted": refuted}
    (folders[2] / "statements.json").write_text(json.dumps(said))
    scores = json.loads((folders[3] / "scores.json").read_text())
    scores["cards"] = [c for c in scores["cards"] if c["id"] != "renji-phase"]
    (folders[3] / "scores.json").write_text(json.dumps(scores))
    withheld = [{"dataset": "sim-renji", "questions": 100, "reason": "it is not on this machine"}]
    bill = {"note": "3 of 700 answers are missing", "withheld": withheld, "total": {"cost_usd": 12.5}}
    (folders[3] / "usage.json").write_text(json.dumps(bill))
    return model_page(folders, root / "page", title="A comparison", pictures=30)


@pytest.fixture(scope="module")
def run_page(tmp_path_factory) -> Path:
    """Three stages of a run on real data, of which one set may not leave the machine."""
    root = tmp_path_factory.mktemp("run")
    stages = []
    for name, title, skill in (
        ("base", "Base", 0.1),
        ("sft", "Stage 1 SFT", 0.6),
        ("grpo", "Stage 3 GRPO", 0.9),
    ):
        path = predictions(root / name, name, skill, 140, prefix="")
        log = root / name / "log.jsonl"
        log.write_text("".join(json.dumps({"step": k, "loss": 1 / (k + 1)}) + "\n" for k in range(5)))
        stages.append(Stage(name, title, scores_by_hand(path, name), path, log))
    run = ReportInput(
        "A run",
        False,
        stages,
        {"dataset": {"cholec80": 42}, "frames": {"cholec80": 40}},
        {"cholec80": {"teacher": 3, "self": 4}},
        {"seed": "17"},
    )
    return write_report(run, root / "report.html")


# --- What the page says ---------------------------------------------------------------------------


def shown(html: str) -> str:
    """The text of a page."""
    html = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("&ndash;", "-").split())


def test_the_page_says_what_it_must(page, run_page) -> None:
    text = shown(page.read_text())
    failed = sum(
        r["outcome"] == "api_error" for r in read_predictions(page.parent.parent / "flaky/predictions.jsonl")
    )
    assert failed > 2
    for needed in (
        "SIMULATED DATA",
        "not a medical device",
        "not for clinical use",
        f"flaky: not final. {100 * failed / 350:.2f} % of its requests failed",
        "not evaluable: policy",
        "not ranked",
        "ECE 0.080, Brier 0.200",
        "tool precision",
        "71.2 [60.0, 80.0] n 300",
        "blank: answer changed - 41.5 [60.0, 80.0] n 200",
        "native: not final. 3 of 700 answers are missing",
        "sim-renji, 100 questions: it is not on this machine",
        "12.50",
        "supported - - 62.5 n 90",
        "tool: is not there 4",
        "under different protocols: do not compare",
        "4 videos: the cluster interval is unreliable under 6",
        "seen centre",
    ):
        assert needed in text, needed
    assert "do not share" not in text
    told = shown(run_page.read_text())
    assert "SIMULATED DATA" not in told and "not for clinical use" in told
    assert "Contains images of local_only data (renji): do not share." in told
    assert "teacher-generated" in told and "seed: 17" in told and "step 4" in run_page.read_text()
    assert "The stages" not in told and "Stage by stage" in told


def test_every_number_of_the_scores_is_on_the_page(run_page) -> None:
    """Primary scores, intervals, floors and lifts against the input, which the page only formats."""
    text, scores = (
        shown(run_page.read_text()),
        scores_by_hand(run_page.parent / "grpo/predictions.jsonl", "x"),
    )
    for card in scores["cards"]:
        p = card["metrics"][card["primary"]]
        assert f"{p['value']:.1f}" in text and f"[{p['low']:.1f}, {p['high']:.1f}]" in text
        assert f"lift {card['lift']:.2f}" in text
        for name, metric in card["metrics"].items():
            expected = "-" if metric["value"] is None else f"{metric['value']:.2f}"
            row = re.search(rf"<th scope=\"row\">{name}</th>", run_page.read_text())
            assert row and expected in text, (card["id"], name)


def test_a_stage_that_learned_is_marked_better_and_one_of_another_protocol_is_not_compared(
    page, run_page
) -> None:
    assert 'aria-label="better"' in run_page.read_text()
    rows = re.search(r'id="stages".*?</table>', page.read_text(), re.DOTALL).group(0)
    cells = re.search(r"Cholec80 phase.*?</tr>", rows, re.DOTALL).group(0).split("<td")[3:]
    assert "better" in cells[1], "base 30 %, better 80 %"
    assert "better" not in cells[3] and "worse" not in cells[3], "native was asked with another prompt"


def test_only_models_under_one_stamp_are_ranked(page) -> None:
    board = re.search(r"Arena Score, public\.</b>.*?</table>", page.read_text(), re.DOTALL).group(0)
    rows = re.findall(r"<tr.*?</tr>", board, re.DOTALL)[1:]
    ranks = [(re.search(r"<td>(\d*)</td>", r).group(1), shown(r)) for r in rows]
    assert [(r, t.split()[1] if r else t.split()[0]) for r, t in ranks] == [
        ("1", "better"), ("2", "flaky"), ("3", "base"), ("", "native"),
    ]  # fmt: skip


def test_published_rows_stand_beside_with_their_protocol(page) -> None:
    """Surg-R1's public Arena Score of the paper, 57.7 (evaluation.md B7), and how SurgVLM asked."""
    table = re.search(r'<details class="published">.*?</details>', page.read_text(), re.DOTALL).group(0)
    rows = [shown(r) for r in re.findall(r'<tr class="unranked">.*?</tr>', table, re.DOTALL)]
    assert rows[0].startswith("Surg-R1") and "57.7" in rows[0] and "51.69 unknown 80.90 unknown" in rows[0]
    assert any("Skywork" in r and "6.37 options" in r for r in rows)


def test_a_radar_labels_every_axis_with_its_own_maximum() -> None:
    """Axis ends by hand: 51.69 -> 60, 10.05 -> 20, 97 -> 100; the point of 50 of 100 lies half-way out."""
    svg = charts.radar(
        [("A", "x"), ("B", "x"), ("C <", "x")],
        {"one": [51.69, 10.05, None], "two": [0.0, 5.0, 50.0]},
        [0.0, 2.0, 97.0],
        title="t",
    )
    assert re.findall(r"max (\d+) %", svg) == ["60", "20", "100"]
    assert "C &lt;" in svg and "C <" not in svg
    middle, end = (250, 178), (250 - 124 * 3**0.5 / 2, 178 + 62)
    x, y = (middle[0] + end[0]) / 2, (middle[1] + end[1]) / 2
    assert f"M{x:.1f} {y - 4.4:.1f}" not in svg, "series two is drawn as squares"
    assert f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}"' in svg
    path = re.search(r'<title>one</title><path d="([^"]*)"', svg).group(1)
    assert path.count("M") == 1, "no line to or from the axis without a value"


@pytest.mark.parametrize(
    ("values", "end"), [([], 5), ([5.0], 5), ([5.1], 10), ([97.0, 3.0], 100), ([100.0], 100)]
)
def test_an_axis_ends_at_the_next_round_percentage(values, end) -> None:
    assert charts.rim(values) == end


def test_stacked_shares_add_up_to_the_whole_bar() -> None:
    svg = charts.shares({"ok": 7, "oov": 0, "refused": 3}, title="t", prefix="outcome")
    widths = [float(w) for w in re.findall(r'<rect x="[\d.]+" width="([\d.]+)"', svg)]
    assert widths == [70, 30] and 'aria-label="t: ok 7, refused 3"' in svg and "outcome-oov" not in svg


def test_a_reliability_bar_is_as_tall_as_the_accuracy() -> None:
    bins = [
        {"low": 0.5, "high": 0.6, "n": 10, "confidence": 0.55, "accuracy": 0.4},
        {"low": 0.6, "high": 0.7, "n": 0, "confidence": float("nan"), "accuracy": float("nan")},
    ]
    svg = charts.reliability(bins, title="t", series=0)
    assert re.findall(r'<rect [^>]*height="([\d.]+)"', svg) == ["80.0"] and "nan" not in svg


def test_a_folder_without_scores_is_named(tmp_path) -> None:
    with pytest.raises(ReportError, match=re.escape(str(tmp_path / "scores.json"))):
        read_model(tmp_path)
    with pytest.raises(ReportError, match="no folder given"):
        model_page([], tmp_path)


def test_two_folders_of_one_model_are_told_apart(tmp_path) -> None:
    folders = [model_folder(tmp_path, "a", 0.5, 70), model_folder(tmp_path, "b", 0.6, 70)]
    for folder in folders:
        scores = json.loads((folder / "scores.json").read_text())
        (folder / "scores.json").write_text(json.dumps(scores | {"name": "twin"}))
    renamed = (folders[1] / "predictions.jsonl").read_text().replace('"sample_id": "', '"sample_id": "b-')
    (folders[1] / "predictions.jsonl").write_text(renamed)
    text = model_page(folders, tmp_path / "page").read_text()
    assert 'aria-label="better"' not in text, "samples that cannot be paired are not"
    assert "twin (a)" in text and "twin (b)" in text


# --- Side files -----------------------------------------------------------------------------------


def scripts(folder: Path) -> tuple[dict, list[dict]]:
    """The index and all details, as the page's script gets them."""
    texts = [p.read_text() for p in sorted(folder.glob("samples/[0-9]*.js"))]
    for number, text in enumerate(texts):
        assert text.startswith(f"surgbench.chunk({number}, ")
    index = (folder / "samples/index.js").read_text()
    details = [d for t in texts for d in json.loads(t[t.index(", ") + 2 : -3])]
    return json.loads(index[len("surgbench.index(") : -3]), details


def test_the_side_files_hold_every_sample_of_every_model(page) -> None:
    index, details = scripts(page.parent / "index_files")
    rows = main_rows(read_predictions(page.parent.parent / "better/predictions.jsonl"))
    names, samples, model = index["names"], index["samples"], index["models"][1]
    assert len(details) == len(samples["id"]) == 350 and index["chunk"] == CHUNK
    at = {name: k for k, name in enumerate(samples["id"])}
    for row in rows:
        k = at[row["sample_id"]]
        assert names["text"][samples["answer"][k]] == row["answer"]
        assert names["outcome"][model["outcome"][k]] == row["outcome"]
        given = model["prediction"][k]
        assert (names["text"][given] if given >= 0 else None) == row["prediction"]
        if row["task"] != "tool_localization":
            assert model["right"][k] == (row["prediction"] == row["answer"])
        told = details[k]["answers"][1]
        assert told["text"] in ("", row["text"]) and details[k]["question"] == row["question"]
        assert all(level in row["text"] for level in told["levels"].values())


def test_pictures_are_small_bounded_and_the_same_twice(tmp_path) -> None:
    rows = main_rows(read_predictions(predictions(tmp_path / "m", "m", 0.5, 140)))
    Path(rows[0]["image"]).write_bytes(b"not a picture")
    kept = []
    for _ in range(2):
        found = write_samples([rows], tmp_path / "out", pictures=12, inconsistent=[frozenset()])
        files = sorted((tmp_path / "out/pictures").iterdir())
        kept.append(
            {p.name: p.read_bytes() for p in files}
            | {"index": (tmp_path / "out/samples/index.js").read_bytes()}
        )
    assert len(files) == 12 and kept[0] == kept[1] and not list((tmp_path / "out").glob("*.part"))
    assert found.samples == 140 and found.pictures + found.without == 140
    index, _ = scripts(tmp_path / "out")
    assert max(index["samples"]["picture"]) == 11
    wide = tmp_path / "wide.png"
    Image.new("RGB", (1920, 1080)).save(wide)
    write_samples(
        [[rows[1] | {"image": str(wide)}]], tmp_path / "out", pictures=9, inconsistent=[frozenset()]
    )
    with Image.open(tmp_path / "out/pictures/00000.jpg") as small:
        assert small.size == (480, 270)
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1, "what an earlier page left is gone"


def test_nothing_a_model_wrote_can_leave_a_script(page) -> None:
    """The HTML tokenizer sees neither a tag nor the end of a script in any text of a model."""
    files = page.parent / "index_files/samples"
    for path in (page, *files.glob("*.js")):
        assert EVIL not in path.read_text(), path
    assert sum(p.read_text().count("u003cscript") for p in files.glob("*.js")) > 100
    body = page.read_text()
    assert not re.search(r'(src|href)="(https?:)?//', body) and "url(" not in body and "@import" not in body
    assert "base64" not in body


# --- In the browser -------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "dark"), [(1366, False), (1366, True), (390, False)])
def test_the_page_fits_its_window(page, run_page, browser, width, dark) -> None:
    for path in (page, run_page):
        browser.open(path.as_uri(), width, dark=dark)
        for button in ("document.querySelectorAll('button.more')", "document.querySelectorAll('summary')"):
            browser.run(f"{button}.forEach(b => b.click())")
        assert browser.run("document.documentElement.scrollWidth") <= width
        back = browser.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 120) == dark


def test_no_text_of_a_model_becomes_a_script_or_a_picture(page, browser) -> None:
    browser.open(page.as_uri() + "#task=phase_recognition")
    browser.run(
        "document.querySelectorAll('.sample').forEach("
        "b => { b.click(); document.getElementById('close').click(); })"
    )
    browser.run("document.querySelector('.sample').click()")
    browser.wait("document.querySelector('.level')")
    assert "<script>" in browser.run("document.querySelector('#opened-body').textContent"), (
        "it is shown as text"
    )
    assert browser.run("document.querySelectorAll('main script, dialog script, img[src=x]').length") == 0
    assert browser.run("document.title") == "A comparison"


def test_filters_count_what_the_predictions_hold(page, browser) -> None:
    rows = main_rows(read_predictions(page.parent.parent / "better/predictions.jsonl"))
    wrong = [r for r in rows if r["task"] == "phase_recognition" and r["prediction"] != r["answer"]]
    browser.open(page.as_uri() + "#task=phase_recognition&verdict=wrong&model=1")
    count = "Number(document.documentElement.dataset.shown)"
    assert browser.run(count) == len(wrong) > 0
    assert "verdict=wrong" in browser.run("location.hash")

    def choose(**values: str) -> int:
        browser.run("document.getElementById('clear').click()")
        for key, value in values.items():
            browser.run(
                f"(() => {{ const c = document.querySelector('[data-key={key}]');"
                f" c.value = {json.dumps(value)}; c.dispatchEvent(new Event('change')); }})()"
            )
        return browser.run(count)

    assert choose() == 350
    mention = [r for r in rows if r["outcome"] == "repaired"]
    assert choose(model="1", outcome="repaired") == len(mention) > 0
    label = [r for r in rows if r["task"] == "phase_recognition" and r["answer"] == "preparation"]
    assert choose(model="1", task="phase_recognition", label="preparation") == len(label) > 0
    assert choose(dataset="sim-renji", centre="renji") == 50
    assert choose(centre="ucl", verdict="differ") > 0
    browser.run("document.getElementById('clear').click()")
    browser.run(
        "(() => { const f = document.getElementById('find'); f.value = 'zebra';"
        " f.dispatchEvent(new Event('input')); })()"
    )
    browser.wait(f"{count} === 0")
    browser.run("document.getElementById('deep').click()")
    zebras = {
        r["sample_id"]
        for name in ("base", "better", "flaky", "native")
        for r in read_predictions(page.parent.parent / name / "predictions.jsonl")
        if "zebra" in r["text"]
    }
    browser.wait(f"{count} === {len(zebras)}")


def test_the_keyboard_alone_is_enough(page, browser) -> None:
    browser.open(page.as_uri())
    browser.key("/")
    assert browser.run("document.activeElement.id") == "find"
    browser.key("Escape")
    browser.run("document.querySelector('.sample').focus()")
    active = "Number(document.activeElement.dataset.sample)"
    browser.key("ArrowRight")
    assert browser.run(active) == 1
    columns = browser.run(
        "getComputedStyle(document.getElementById('list')).gridTemplateColumns.split(' ').length"
    )
    browser.key("ArrowDown")
    assert browser.run(active) == 1 + columns > 2
    browser.key("ArrowUp")
    browser.key("Enter")
    browser.wait("document.querySelector('.level')")
    assert browser.run("document.getElementById('opened').open") is True
    first = browser.run("document.getElementById('opened-title').textContent")
    browser.key("ArrowRight")
    browser.wait(f"document.getElementById('opened-title').textContent !== {json.dumps(first)}")
    browser.key("Escape")
    assert browser.run("document.getElementById('opened').open") is False
    browser.wait(f"{active} === 2")
    browser.run("[...document.querySelectorAll('.sample')].at(-1).focus()")
    browser.key("ArrowRight")
    assert browser.run(active) == 24, "the arrows go on to the next page"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.run(outline) != "none", "focus is visible"


def test_every_control_has_a_name(page, browser) -> None:
    """The accessibility tree, as a screen reader gets it."""
    browser.open(page.as_uri())
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "link", "combobox", "searchbox", "checkbox", "image")
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    controls = [(role, name) for role, name in named if role in roles]
    assert {role for role, _ in controls} >= {"button", "link", "combobox", "searchbox", "checkbox", "image"}
    assert not [role for role, name in controls if not name.strip()]


def test_boxes_are_drawn_where_truth_and_prediction_are(page, browser) -> None:
    browser.open(page.as_uri() + "#task=tool_localization&model=1&verdict=right")
    found = browser.run(
        "(() => { const svg = document.querySelector('.sample svg'); return [svg.getAttribute('viewBox'),"
        " ...[...svg.querySelectorAll('rect')].map("
        "r => ['x', 'y', 'width', 'height'].map(k => Number(r.getAttribute(k))))]; })()"
    )
    text = browser.run("document.querySelector('.sample').textContent")
    (x1, y1, x2, y2) = map(int, re.search(r"Truth: \((\d+),(\d+)\),\((\d+),(\d+)\)", text).groups())
    assert found == ["0 0 252 140", [x1, y1, x2 - x1, y2 - y1], [x1, y1, x2 - x1, y2 - y1]]


def test_a_page_without_its_side_files_says_so(run_page, browser, tmp_path) -> None:
    alone = tmp_path / "alone.html"
    alone.write_text(run_page.read_text())
    browser.open(alone.as_uri())
    assert "Copy that folder along with the page" in browser.run(
        "document.getElementById('count').textContent"
    )


def test_ten_thousand_samples_cost_the_page_nothing(browser, tmp_path) -> None:
    """By structure, not by the clock: what is in the DOM, and what a server was asked for."""
    rows = main_rows(read_predictions(predictions(tmp_path / "m", "m", 0.5, 140)))
    many = tmp_path / "many" / "predictions.jsonl"
    many.parent.mkdir()
    with many.open("w") as file:
        for k in range(10_000):
            row = rows[k % 140]
            # Read back as another program's rows: prediction without text.
            slim = {
                key: row[key]
                for key in (
                    "dataset",
                    "video",
                    "task",
                    "focus",
                    "answer",
                    "prediction",
                    "options",
                    "image",
                    "size",
                    "outcome",
                )
            }
            file.write(json.dumps(slim | {"sample_id": f"s{k}", "frame": k}) + "\n")
    scores = scores_by_hand(tmp_path / "m/predictions.jsonl", "m")
    (many.parent / "scores.json").write_text(json.dumps(scores))
    page = model_page([many.parent], tmp_path / "page", pictures=40)
    assert page.stat().st_size < 300_000
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(page.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://127.0.0.1:{server.server_port}/index.html")
        assert browser.run("Number(document.documentElement.dataset.shown)") == 10_000
        assert browser.run("document.querySelectorAll('.sample').length") <= 200
        assert browser.run("document.querySelectorAll('*').length") < 4_000
        early = [p for p in asked if "favicon" not in p]
        assert sorted(early) == ["/index.html", "/index_files/samples/index.js"], "no picture and no text yet"
        browser.run("document.getElementById('samples').scrollIntoView()")
        browser.wait(
            "[...document.querySelectorAll('.sample img')].some(i => i.complete && i.naturalWidth > 0)"
        )
        pictures = [p for p in asked if "/pictures/" in p]
        assert 0 < len(pictures) < 24, "only what is near the window"
        browser.run("document.querySelectorAll('.sample')[2].click()")
        browser.wait("document.querySelector('#opened-body dl')")
        assert [p for p in asked if re.search(r"samples/\d+\.js", p)] == ["/index_files/samples/000.js"]
    finally:
        server.shutdown()
        server.server_close()
