"""Metrics against published rows, scikit-learn and closed forms; scores, resuming, intervals, Arena fixtures
(evaluation.md section F).
"""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from surgr1.bench import metrics as m
from surgr1.bench.arena import arena, arena_common, arena_lift
from surgr1.bench.runner import PredictionError, predict, read_predictions
from surgr1.bench.scoring import bootstrap_weights, compare, score
from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Labels, Sample
from surgr1.engines.types import Completion, Sampling
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary


def classified(truth, predicted, k):
    table = m.confusion(truth, predicted, k).ravel()
    return {name: 100 * float(f(table)) for name, f in m.classification(k).metrics.items()}


@pytest.mark.parametrize(
    ("hits", "row"),
    [(311, (31.10, 12.50, 3.89, 3.89)), (51, (5.10, 12.50, 0.64, 0.64)), (251, (25.10, 12.50, 3.14, 3.14))],
)
def test_constant_predictors_of_the_papers_table_6(hits, row) -> None:
    truth = [0] * hits + [1 + i % 7 for i in range(1000 - hits)]
    found = classified(truth, [0] * 1000, 8)
    assert [round(found[k], 2) for k in ("accuracy", "recall", "precision", "jaccard")] == list(row)


def test_out_of_vocabulary_answers_are_wrong_but_no_class() -> None:
    """Renji row 10.74 / 14.29 / 1.54 / 1.54: 101 right of 940, 937 answers valid."""
    truth = [0] * 101 + [1 + i % 6 for i in range(839)]
    found = classified(truth, [0] * 937 + [-1] * 3, 7)
    assert [round(found[k], 2) for k in ("accuracy", "recall", "precision", "jaccard")] == [
        10.74,
        14.29,
        1.54,
        1.54,
    ]


def test_macro_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, 400), rng.integers(-1, 5, 400)
    found = classified(truth, predicted, 6)
    p, r, f, _ = precision_recall_fscore_support(
        truth, predicted, labels=range(6), average="macro", zero_division=0
    )
    assert [found[k] / 100 for k in ("precision", "recall", "f1")] == pytest.approx([p, r, f])


def test_average_precision_closed_form_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.random((60, 20)) < 0.2, rng.random((60, 20)) < 0.3
    truth[:, 3] = False
    found = m.average_precision(truth, predicted)
    assert np.isnan(found[3])
    for k in np.flatnonzero(truth.any(0)):
        # scikit-learn's step-wise AP of 0/1 scores is the closed form exactly.
        assert found[k] == pytest.approx(average_precision_score(truth[:, k], predicted[:, k].astype(float)))


def test_never_predicting_scores_the_prevalence() -> None:
    truth = np.zeros((10, 2), bool)
    truth[:3, 0] = True
    assert m.average_precision(truth, np.zeros((10, 2), bool))[0] == pytest.approx(0.3)


G, H, S = (
    ("grasper", "retract", "gallbladder"),
    ("hook", "dissect", "gallbladder"),
    ("scissors", "cut", "cystic duct"),
)


def test_triplet_readings_by_hand() -> None:
    truth = [frozenset({G, H}), frozenset({G}), frozenset(), frozenset({S})]
    answers = [frozenset({G}), frozenset({G}), frozenset(), None]
    stats = m.triplet_statistics(truth, answers, [G, H, S], frozenset({G}))
    found = {k: float(f(stats)) for k, f in m.triplets(3).metrics.items()}
    assert found["accuracy"] == 2 / 4 and found["any"] == 3 / 4 and found["instance"] == 2 / 4
    assert found["jaccard"] == pytest.approx((0.5 + 1 + 1) / 4)
    assert found["tool"] == 2 / 4 and found["target"] == 3 / 4, (
        "two tools on one target: the target set is right"
    )
    assert found["missed_per_frame"] == 2 / 4 and found["hallucinated_per_frame"] == 0
    # AP: G found in both its frames 1; H never predicted, prevalence 1/4; S likewise.
    assert found["map"] == pytest.approx((1 + 0.25 + 0.25) / 3)
    assert float(m.triplets(3).floors["map"](stats)) == pytest.approx((0.5 + 0.25 + 0.25) / 3)


def test_pooled_cvs_reproduces_the_papers_table_9() -> None:
    """Overall is pooled over 830 / 939 / 937 questions (evaluation.md finding 3): Surg-R1's 84.82, 97.12,
    94.66 give 92.50.
    """
    stats = np.zeros(20)
    for k, (n, accuracy) in enumerate([(830, 84.82), (939, 97.12), (937, 94.66)]):
        right = round(n * accuracy / 100)
        stats[k * 6 : k * 6 + 6] = [right, n - right, 0, 0, 0, 0]
    found = {k: 100 * float(f(stats)) for k, f in m.cvs().metrics.items()}
    assert round(found["pooled"], 2) == 92.50 and round(found["average"], 2) == 92.20


def test_arena_fixtures() -> None:
    assert round(arena(dict(zip("abcd", (51.69, 80.90, 48.10, 49.94), strict=True))), 2) == 57.66
    assert round(arena(dict(zip("abc", (6.77, 49.70, 29.01), strict=True))), 1) == 28.5
    assert round(arena(dict(zip("abc", (8.20, 52.35, 28.72), strict=True))), 1) == 29.8
    ours = arena(dict(zip("abcdef", (10.05, 57.66, 79.80, 32.92, 92.50, 87.36), strict=True)))
    best = arena(dict(zip("abcdef", (7.49, 20.74, 62.57, 19.15, 78.94, 80.46), strict=True)))
    assert (round(ours, 2), round(best, 2), round(ours - best, 1)) == (60.05, 44.89, 15.2)
    assert arena_common({"x": {"a": 1.0, "b": 9.0}, "y": {"a": 3.0}}) == {"x": 1.0, "y": 3.0}
    assert arena_lift({"a": 90.0}, {"a": 80.0}) == pytest.approx(0.5)


def rows(
    dataset="sim-cholec80", task="phase_recognition", videos=8, frames=30, right=0.7, seed=0, answer=None
):
    rng = np.random.default_rng(seed)
    names = list(vocabulary("cholec80", "phase").names)
    found = []
    for v in range(videos):
        easy = rng.random() < right
        for f in range(frames):
            truth = names[(f + v) % 7]
            hit = easy if rng.random() < 0.9 else not easy
            given = truth if hit else names[(f + v + 1) % 7]
            found.append(
                {
                    "sample_id": f"{v}-{f}",
                    "dataset": dataset,
                    "centre": "c",
                    "video": f"v{v}",
                    "frame": f,
                    "task": task,
                    "focus": "",
                    "question": "q",
                    "answer": truth,
                    "options": names,
                    "image": "",
                    "size": [1, 1],
                    "text": "",
                    "prediction": given if answer is None else answer[0],
                    "outcome": "ok" if answer is None else answer[1],
                    "rung": "exact",
                    "valid_format": True,
                    "finish_reason": "stop",
                    "tokens_in": 1,
                    "tokens_out": 1,
                    "latency_s": 0,
                    "model": "m",
                }
            )
    return found


def test_clustered_interval_is_wider_than_the_frame_interval() -> None:
    body = rows()
    card = score(body, stage="x", draws=500)["cards"][0]
    clustered = card["metrics"]["accuracy"]["high"] - card["metrics"]["accuracy"]["low"]
    for i, row in enumerate(body):
        row["video"] = f"own-{i}"
    frame = score(body, stage="x", draws=500)["cards"][0]["metrics"]["accuracy"]
    assert clustered > 2 * (frame["high"] - frame["low"])


def test_bootstrap_equals_a_slow_resampling_of_rows() -> None:
    body = rows(videos=6, frames=5)
    weights = bootstrap_weights(6, 40, seed=3)
    from surgr1.bench.scoring import reduce_all

    (stats,) = reduce_all(body)
    fast = stats.draws("jaccard", weights)
    index = {n: i for i, n in enumerate(vocabulary("cholec80", "phase").names)}
    for w, value in zip(weights, fast, strict=True):
        picked = [
            r
            for v, k in zip(stats.names, w, strict=True)
            for _ in range(int(k))
            for r in body
            if r["video"] == v
        ]
        slow = classified([index[r["answer"]] for r in picked], [index[r["prediction"]] for r in picked], 7)[
            "jaccard"
        ]
        assert value == pytest.approx(slow)


def test_empty_answers_score_zero_and_few_videos_are_warned_about() -> None:
    found = score(rows(videos=3, answer=(None, "empty")), stage="x", draws=50)
    (card,) = found["cards"]
    assert all(v["value"] == 0 for v in card["metrics"].values()) and card["coverage"] == 0
    assert "unreliable" in card["warnings"][0] and found["arena"]["public"]["value"] == 0
    assert card["floor"] > 14


def test_paired_comparison() -> None:
    worse, better = rows(right=0.3, seed=1), rows(right=0.9, seed=1)
    found = compare(worse, better, draws=300)
    assert (
        found["cholec80-phase"]["difference"] > 0
        and found["arena-public"]["difference"] == found["cholec80-phase"]["difference"]
    )
    same = compare(better, better, draws=300)["cholec80-phase"]
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def sample(k: int) -> Sample:
    return Sample(
        "sim-cholec80",
        "c",
        "laparoscopic cholecystectomy",
        "sim:cholec/41",
        "video41",
        k,
        float(k),
        "x.png",
        100,
        100,
        Task.PHASE_RECOGNITION,
        "Which phase?",
        vocabulary("cholec80", "phase").names,
        "open",
        "",
        "preparation",
        Labels(phase="preparation"),
        "test",
        "test",
        "public",
        "",
    )


class Stub:
    name, model = "stub", "m"

    def __init__(self, limit: int = 99, fail: bool = False):
        self.limit, self.fail, self.asked = limit, fail, 0

    def generate(self, requests, sampling):
        for request in requests:
            if self.asked == self.limit:
                raise KeyboardInterrupt
            self.asked += 1
            text = "<think>Level 1: a\nLevel 2: b\nLevel 3: c</think><answer>preparation</answer>"
            yield (
                request,
                [
                    Completion(
                        "" if self.fail else text, "error" if self.fail else "stop", 1, 1, 0.0, 1, "stub", "m"
                    )
                ],
            )


def test_a_killed_benchmark_continues_and_failures_are_asked_again(tmp_path) -> None:
    samples = [sample(k) for k in range(6)]
    image = PreparedImage(tmp_path / "x.png", 28, 28, 100, 100)
    images = {s.sample_id: image for s in samples}
    out = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        predict(samples, images, Stub(limit=2), out, reasoning=True, sampling=Sampling())
    with out.open("a") as file:
        file.write('{"sample_id": "cut o')
    predict(samples[:3], images, Stub(fail=True), out, reasoning=True, sampling=Sampling())
    second = Stub()
    assert predict(samples, images, second, out, reasoning=True, sampling=Sampling()) == 6
    assert second.asked == 4, "two were answered before the kill, the failed one and three new are asked"
    whole = tmp_path / "whole.jsonl"
    predict(samples, images, Stub(), whole, reasoning=True, sampling=Sampling())
    assert score(list(read_predictions(out)), stage="x", draws=50) == score(
        list(read_predictions(whole)), stage="x", draws=50
    )
    assert all(r["valid_format"] for r in read_predictions(out))


def test_a_damaged_predictions_file_is_named(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("{}\nnot json\n")
    with pytest.raises(PredictionError, match=r"p\.jsonl:2"):
        list(read_predictions(path))
    with pytest.raises(PredictionError, match="no such"):
        list(read_predictions(tmp_path / "none.jsonl"))
    assert json.loads("{}") == {}
