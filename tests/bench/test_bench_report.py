"""The report in a real browser: it fits, filters, escapes, and needs no network."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from surgr1.bench.report import ReportInput, Stage, write_report
from surgr1.bench.runner import read_predictions
from surgr1.bench.scoring import score
from surgr1.ontology.vocabularies import vocabulary

EVIL = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    stages = []
    names = list(vocabulary("cholec80", "phase").names)
    actions = list(vocabulary("sar-rarp50", "action").names)
    for stage, skill in (("base", 0.1), ("sft", 0.6), ("grpo", 0.8)):
        import json

        path = folder / f"{stage}.jsonl"
        with path.open("w") as file:
            for dataset, task, options in (
                ("sim-cholec80", "phase_recognition", names),
                ("sim-sar-rarp50", "action_recognition", actions),
                ("sim-strasbourg", "phase_recognition", names),
            ):
                for k in range(42):
                    image = folder / f"{k % 5}.png"
                    if not image.is_file():
                        Image.fromarray(rng.integers(0, 255, (140, 252, 3), dtype=np.uint8)).save(image)
                    truth = options[k % len(options)]
                    given = truth if rng.random() < skill else options[(k + 1) % len(options)]
                    text = f"<think>Level 1: {EVIL}\nLevel 2: b\nLevel 3: c</think><answer>{given}</answer>"
                    row = {
                        "sample_id": f"{dataset}{k}",
                        "dataset": dataset,
                        "centre": "c",
                        "video": f"v{k % 7}",
                        "frame": k,
                        "task": task,
                        "focus": "",
                        "question": EVIL,
                        "answer": truth,
                        "options": options,
                        "image": str(image),
                        "size": [252, 140],
                        "text": text,
                        "prediction": given,
                        "outcome": "ok",
                        "rung": "exact",
                        "valid_format": True,
                        "finish_reason": "stop",
                        "tokens_in": 1,
                        "tokens_out": 1,
                        "latency_s": 0.1,
                        "model": "m",
                    }
                    file.write(json.dumps(row) + "\n")
        stages.append(
            Stage(stage, stage.title(), score(list(read_predictions(path)), stage=stage, draws=100), path)
        )
    run = ReportInput(
        "A run",
        True,
        stages,
        {"dataset": {"sim-cholec80": 42}, "frames": {"sim-cholec80": 42}},
        {"sim-cholec80": {"teacher": 3, "self": 4}},
        {"seed": "0"},
    )
    return write_report(run, folder / "report.html")


def test_the_page_says_what_it_must_and_needs_nothing(page) -> None:
    text = page.read_text()
    assert "SIMULATED DATA" in text and "not for clinical use" in text and "not a medical device" in text
    assert EVIL not in text and "&lt;script&gt;document" in text
    assert not re.search(r'(src|href)="https?:', text)
    assert text.count('class="example"') > 8 and page.stat().st_size < 6_000_000
    assert "&#9650;" in text, "the skilled stage is marked better than the one before"


@pytest.mark.parametrize(
    ("width", "fragment"), [(1366, ""), (500, ""), (1366, "#task=phase_recognition&verdict=wrong")]
)
def test_the_page_in_a_browser(page, tmp_path, width, fragment) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        " --disable-component-update --disable-sync"
    )
    command = [
        browser,
        *flags.split(),
        f"--user-data-dir={tmp_path}",
        f"--window-size={width},900",
        "--dump-dom",
        f"file://{page}{fragment}",
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "<title>A run</title>" in dom, "no text of a model became a script"
    assert 'data-fits="true"' in dom, "the page scrolls sideways"
    shown = int(re.search(r'data-shown="(\d+)"', dom).group(1))
    wrong = len(re.findall(r'data-task="phase_recognition" data-dataset="[^"]+" data-verdict="wrong"', dom))
    assert shown == (wrong if fragment else dom.count('class="example"'))
