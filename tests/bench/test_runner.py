"""How questions are put, and runs that are killed, fail and go on."""

import json
import re
from dataclasses import replace

import pytest

from surgr1.bench.predictions import PredictionError, read_predictions
from surgr1.bench.runner import Asking, offered, predict, request_of
from surgr1.bench.scoring import score
from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Labels, Sample
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.types import Completion, Sampling
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary

PHASES = vocabulary("cholec80", "phase").names
RIGHT = "<think>Level 1: a\nLevel 2: b\nLevel 3: c</think><answer>preparation</answer>"


def sample(k: int, **changes) -> Sample:
    one = Sample(
        dataset="sim-cholec80",
        centre="c",
        procedure="laparoscopic cholecystectomy",
        canonical_video="sim:cholec/41",
        video="video41",
        frame=k,
        seconds=float(k),
        image="x.png",
        width=100,
        height=100,
        task=Task.PHASE_RECOGNITION,
        question="Which phase?",
        options=PHASES,
        protocol="open",
        focus="",
        answer="preparation",
        labels=Labels(phase="preparation", triplets=(("hook", "dissect", "gallbladder"),)),
        split="test",
        role="test",
        policy="public",
        licence="",
    )
    return replace(one, **changes)


BOX = {
    "dataset": "sim-cholect50",
    "task": Task.TOOL_LOCALIZATION,
    "question": "Where is the hook? Give its box.",
    "focus": "hook",
    "options": (),
    "answer": "(10,10),(50,50)",
}


class Stub:
    """Answers `text` until `limit` requests are answered, then is stopped."""

    name, model = "stub", "m"

    def __init__(self, limit: int = 99, text: str = RIGHT, fail=lambda request, k: False):
        self.limit, self.text, self.fail = limit, text, fail
        self.asked: list[str] = []
        self.indices: list[int] = []

    def generate(self, requests, sampling):
        for request in requests:
            if len(self.asked) == self.limit:
                raise KeyboardInterrupt
            self.asked.append(request.request_id)
            found = []
            for k in range(sampling.first, sampling.first + sampling.n):
                self.indices.append(k)
                failed = self.fail(request, k)
                text, reason = ("", "error") if failed else (self.text, "stop")
                error = "HTTP 500" if failed else ""
                found.append(Completion(text, reason, 3, 2, 0.5, 1, "stub", "m", error))
            yield request, found


@pytest.fixture
def picture(tmp_path) -> PreparedImage:
    path = tmp_path / "x.png"
    path.write_bytes(b"a picture")
    return PreparedImage(path, 56, 28, 100, 100)


def run(samples, picture, engine, out, *, n=1, asking=None, reasoning=True) -> int:
    images = dict.fromkeys((s.sample_id for s in samples), picture)
    sampling = Sampling(n=n, temperature=float(n > 1))
    return predict(samples, images, engine, out, reasoning=reasoning, sampling=sampling, asking=asking)


def test_a_killed_benchmark_continues_and_failures_are_asked_again(tmp_path, picture) -> None:
    samples = [sample(k, sample_id="") for k in range(6)]
    out = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(samples, picture, Stub(limit=2), out)
    with out.open("a") as file:
        file.write('{"sample_id": "cut o')
    broken = Stub(fail=lambda request, k: True)
    assert run(samples[:3], picture, broken, out) == 3 and len(broken.asked) == 1
    assert [r["outcome"] for r in read_predictions(out)] == ["ok", "ok", "api_error"]
    second = Stub()
    assert run(samples, picture, second, out) == 6
    assert len(second.asked) == 4, "two were answered before the kill; the failed one and three new are asked"
    whole = tmp_path / "whole.jsonl"
    run(samples, picture, Stub(), whole)
    assert sorted(out.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert all(r["valid_format"] for r in read_predictions(out))


def test_failures_stay_in_the_denominator_and_are_no_class(tmp_path, picture) -> None:
    """3 of 4 right; the fourth never came: 75 strictly, 100 of what was answered (evaluation.md B0)."""
    samples = [sample(k, sample_id="") for k in range(4)]
    out = tmp_path / "p.jsonl"
    run(samples, picture, Stub(fail=lambda request, k: request.request_id == samples[1].sample_id), out)
    rows = list(read_predictions(out))
    assert len(rows) == 4 and sum(r["outcome"] == "api_error" for r in rows) == 1
    (bad,) = [r for r in rows if r["outcome"] == "api_error"]
    assert (bad["text"], bad["error"], bad["prediction"]) == ("", "HTTP 500", None)
    answered = [r for r in rows if r["outcome"] in ("ok", "repaired")]
    right = sum(r["prediction"] == r["answer"] for r in rows)
    assert (right / len(rows), right / len(answered)) == (0.75, 1.0)


def test_another_prompt_or_model_is_asked_again(tmp_path, picture) -> None:
    samples = [sample(k, sample_id="") for k in range(2)]
    out = tmp_path / "p.jsonl"
    run(samples, picture, Stub(), out)
    again = Stub()
    run(samples, picture, again, out)
    assert not again.asked
    other = Stub()
    run(samples, picture, other, out, asking=Asking(system="Be brief."))
    assert len(other.asked) == 2
    newer = Stub()
    newer.model = "m2"
    run(samples, picture, newer, out, asking=Asking(system="Be brief."))
    assert len(newer.asked) == 2


def test_kept_answers_get_the_facts_of_the_sample_as_they_are_now(tmp_path, picture) -> None:
    old = sample(0, sample_id="s")
    out = tmp_path / "p.jsonl"
    run([old], picture, Stub(), out)
    mended = sample(
        0, sample_id="s", answer="gallbladder packaging", labels=Labels(phase="gallbladder packaging")
    )
    again = Stub()
    run([mended], picture, again, out)
    (row,) = read_predictions(out)
    assert not again.asked and row["answer"] == "gallbladder packaging" == row["labels"]["phase"]


def test_several_completions_of_a_question_have_indices_and_only_lost_ones_are_paid_again(
    tmp_path, picture
) -> None:
    samples = [sample(k, sample_id="") for k in range(2)]
    out, ledger = tmp_path / "p.jsonl", Ledger(tmp_path / "ledger.sqlite")
    broken = Stub(fail=lambda request, k: k == 2)
    assert run(samples, picture, LedgerEngine(broken, ledger), out, n=3) == 6
    second = Stub()
    assert run(samples, picture, LedgerEngine(second, ledger), out, n=3) == 6
    assert second.indices == [2, 2]
    rows = list(read_predictions(out))
    keys = {(r["sample_id"], r["sample_index"]) for r in rows}
    assert keys == {(s.sample_id, k) for s in samples for k in range(3)}
    assert {r["outcome"] for r in rows} == {"ok"}


def test_rows_hold_the_facts_the_text_and_the_labels(tmp_path, picture) -> None:
    out = tmp_path / "p.jsonl"
    run([sample(7, sample_id="s")], picture, Stub(), out)
    row = json.loads(out.read_text())
    assert (
        row["labels"]["triplets"] == [["hook", "dissect", "gallbladder"]] and row["labels"]["tools"] is None
    )
    assert (row["size"], row["grid"], row["frame"], row["seconds"]) == ([100, 100], [56, 28], 7, 7.0)
    assert (row["text"], row["attempts"], row["engine"], row["reasoning"]) == (RIGHT, 1, "stub", True)
    assert re.fullmatch("[0-9a-f]{16}", row["prompt_sha"]) and row["image"] == str(picture.path)


def test_boxes_are_asked_for_in_the_models_frame_and_come_back_in_pixels_of_the_picture(
    tmp_path, picture
) -> None:
    place = sample(0, sample_id="b", **BOX)
    frame = Asking(coordinates="thousand", box_instruction="0 to 1000 of the {width} x {height} picture.")
    request = request_of(place, picture, frame, reasoning=False)
    assert "0 to 1000 of the 56 x 28 picture." in request.prompt
    assert "0 to 1000" not in request_of(sample(0), picture, frame, reasoning=False).prompt, "only for boxes"
    out = tmp_path / "p.jsonl"
    run([place], picture, Stub(text="<answer>(100,200),(500,600)</answer>"), out, asking=frame)
    (row,) = read_predictions(out)
    assert (row["prediction"], row["given"]) == ("(10,20),(50,60)", [100, 200, 500, 600])
    run([place], picture, Stub(text="<answer>(14,7),(28,14)</answer>"), out)
    (row,) = read_predictions(out)
    assert row["prediction"] == "(25,25),(50,50)", "the default frame is the grid's"


def test_options_are_lettered_and_shuffled_per_question_by_the_seed(tmp_path, picture) -> None:
    closed = [sample(k, sample_id="", protocol="options") for k in range(30)]
    plain = [offered(s, Asking(letters=True)).options for s in closed]
    assert set(plain) == {PHASES}
    shuffled = [offered(s, Asking(shuffle=1)).options for s in closed]
    assert shuffled == [offered(s, Asking(shuffle=1)).options for s in closed[::-1]][::-1]
    assert shuffled != [offered(s, Asking(shuffle=2)).options for s in closed]
    assert len(set(shuffled)) > 20 and all(sorted(o) == sorted(PHASES) for o in shuffled)
    first = [o.index("preparation") for o in shuffled]
    assert len(set(first)) == 7, "the right answer stands in every place"
    asking = Asking(letters=True, shuffle=1)
    prompt = request_of(offered(closed[0], asking), picture, asking, reasoning=False).prompt
    assert f"Options: A) {shuffled[0][0]}; B) {shuffled[0][1]}; " in prompt
    out = tmp_path / "p.jsonl"
    run(closed, picture, Stub(text="<answer>A</answer>"), out, asking=asking)
    for row, order in zip(read_predictions(out), shuffled, strict=True):
        assert row["prediction"] == order[0] and row["rung"] == "letter" and row["options"] == list(order)
        assert (row["protocol"], row["letters"]) == ("options", True)


def test_questions_without_a_short_list_stay_open(picture) -> None:
    triplets = sample(
        0,
        dataset="sim-cholect50",
        task=Task.TRIPLET_EXTRACTION,
        protocol="options",
        options=vocabulary("cholect50", "triplet").names,
    )
    asking = Asking(letters=True, shuffle=3)
    assert offered(triplets, asking) == replace(triplets, protocol="open")
    assert offered(sample(0, protocol="options", options=()), asking).protocol == "open"
    # Answers that are sets of names have no letters.
    tools = sample(
        0, task=Task.TOOL_RECOGNITION, protocol="options", options=vocabulary("cholec80", "tool").names
    )
    assert "A)" not in request_of(offered(tools, asking), picture, asking, reasoning=False).prompt


@pytest.mark.parametrize("reasoning", [True, False])
def test_an_example_shows_the_form_and_names_no_surgical_label(picture, reasoning) -> None:
    for one in (sample(0), sample(0, **BOX), sample(0, task=Task.TRIPLET_EXTRACTION)):
        asking = Asking(one_shot=True, coordinates="thousand_yx")
        prompt = request_of(one, picture, asking, reasoning=reasoning).prompt
        bare = request_of(one, picture, Asking(coordinates="thousand_yx"), reasoning=reasoning).prompt
        assert prompt.endswith(bare)
        shown = prompt.removesuffix(bare)
        assert ("Level 1:" in shown) == reasoning and "<answer>" in shown
        words = {
            *PHASES,
            *(w for kind in ("tool", "verb", "target") for w in vocabulary("cholect50", kind).names),
        }
        assert not [w for w in words if re.search(rf"\b{w}\b", shown)]
        if one.task is Task.TOOL_LOCALIZATION:
            assert "[300, 120, 620, 410]" in shown


def test_a_fine_tuned_models_own_prompt_replaces_ours_for_its_task(picture) -> None:
    asking = Asking(native={Task.PHASE_RECOGNITION: "Q: {question} One of {options}."}, system="S")
    closed = offered(sample(0, protocol="options"), asking)
    request = request_of(closed, picture, asking, reasoning=True)
    assert request.prompt == f"Q: Which phase? One of {'; '.join(PHASES)}." and request.system == "S"
    ours = request_of(sample(0, **BOX), picture, asking, reasoning=True).prompt
    assert ours.startswith("Where is the hook?") and "<think>" in ours


def test_rows_say_which_kind_of_prompt_was_sent(tmp_path, picture) -> None:
    """Scores from different kinds are not ranked against each other."""
    samples = [sample(0, sample_id="p"), sample(0, sample_id="b", **BOX)]
    for asking, forms in (
        (Asking(), {"plain"}),
        (Asking(one_shot=True), {"one-shot"}),
        (Asking(one_shot=True, native={Task.PHASE_RECOGNITION: "Phase?"}), {"native", "one-shot"}),
    ):
        run(samples, picture, Stub(), tmp_path / "p.jsonl", asking=asking)
        assert {r["form"] for r in read_predictions(tmp_path / "p.jsonl")} == forms


def test_a_damaged_predictions_file_stops_the_run_with_its_place(tmp_path, picture) -> None:
    out = tmp_path / "p.jsonl"
    out.write_text("{}\n")
    with pytest.raises(PredictionError, match=r"p\.jsonl:1: sample_id"):
        run([sample(0)], picture, Stub(), out)
    assert out.read_text() == "{}\n", "and leaves the file as it is"


def test_scores_of_a_killed_and_of_a_whole_run_are_equal(tmp_path, picture) -> None:
    samples = [sample(k, sample_id="", video=f"video{41 + k % 3}") for k in range(9)]
    out, whole = tmp_path / "p.jsonl", tmp_path / "whole.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(samples, picture, Stub(limit=4), out)
    run(samples[::-1], picture, Stub(), out)
    run(samples, picture, Stub(), whole)
    found = [json.dumps(score(list(read_predictions(p)), name="x", draws=50)) for p in (out, whole)]
    assert found[0] == found[1]
