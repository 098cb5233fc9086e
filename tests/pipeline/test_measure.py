"""A predictions file scored again gives what it gave in the run."""

import json

from surgr1.bench.reasoning_metrics import Cooccurrence
from surgr1.pipeline.measure import measure

TEXT = (
    "<think>Level 1: I see a grasper.\nLevel 2: The grasper retracts the gallbladder.\n"
    "Level 3: The phase is preparation.</think><answer>preparation</answer>"
)


def test_scoring_again_keeps_what_the_training_frames_told(tmp_path) -> None:
    rows = [
        {
            "sample_id": f"s{k}",
            "dataset": "sim-cholec80",
            "procedure": "laparoscopic cholecystectomy",
            "video": f"video{k % 2}",
            "frame": k,
            "task": "phase_recognition",
            "answer": "preparation",
            "labels": {"tools": ["grasper"], "phase": "preparation"},
            "text": TEXT,
            "reasoning": True,
        }
        for k in range(4)
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    seen = {"laparoscopic cholecystectomy": {"preparation": {"grasper": (3, 4)}}}
    first = measure(path, name="x", draws=20, cooccurrence=Cooccurrence(seen))
    before = json.loads((tmp_path / "reasoning.json").read_text())
    assert before["groups"][0]["metrics"]["phase_plausibility"]["n"] > 0
    assert measure(path, name="x", draws=20) == first
    assert json.loads((tmp_path / "reasoning.json").read_text()) == before
