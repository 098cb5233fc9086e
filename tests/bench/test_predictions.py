"""The prediction row: what the parser reads from it, boxes from every frame, files of other programs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgr1.bench.coordinates import EXAMPLES, to_stored
from surgr1.bench.predictions import (
    PredictionError,
    is_final,
    judge,
    letter_counts,
    main_rows,
    read_predictions,
    usage,
)
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.answers import iou, parse_boxes

MINIMAL = {
    "sample_id": "a",
    "dataset": "cholec80",
    "video": "video41",
    "frame": 25,
    "task": "phase_recognition",
    "answer": "preparation",
}
BOX = MINIMAL | {
    "dataset": "cholect50",
    "task": "tool_localization",
    "focus": "hook",
    "answer": "(0,0),(9,9)",
}
PHASES = vocabulary("cholec80", "phase").names


def written(path, *rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def read(path, *rows):
    return list(read_predictions(written(path, *rows)))


def asked(tmp_path, **fields):
    """One row through a file."""
    (row,) = read(tmp_path / "p.jsonl", fields)
    return row


@pytest.mark.parametrize(
    ("coordinates", "numbers"),
    [
        # 25 to 75 % of the width, 10 to 50 % of the height of a 1000 x 500 picture, shown as 560 x 280.
        ("grid", (140, 28, 420, 140)),
        ("thousand", (250, 100, 750, 500)),
        ("thousand_yx", (100, 250, 500, 750)),
        ("stored", (250, 50, 750, 250)),
        ("unit", (0.25, 0.1, 0.75, 0.5)),
    ],
)
def test_one_box_in_every_frame_is_the_same_box(tmp_path, coordinates, numbers) -> None:
    sizes = {"size": (1000, 500), "grid": (560, 280)}
    assert to_stored(numbers, coordinates, **sizes) == pytest.approx((250, 50, 750, 250))
    text = f"<answer>{json.dumps({'bbox_2d': numbers, 'label': 'hook'})}</answer>"
    row = asked(tmp_path, **BOX, text=text, coordinates=coordinates, size=[1000, 500], grid=[560, 280])
    assert (row["prediction"], row["outcome"]) == ("(250,50),(750,250)", "ok")
    assert row["given"] == list(numbers), "both boxes are on record"


def test_the_frame_is_never_guessed_from_the_numbers() -> None:
    """Small numbers in a frame of 1000 stay small; numbers over 1000 in it are clipped, not reinterpreted."""
    sizes = {"size": (1920, 1080), "grid": (1904, 1064)}
    assert to_stored((0.1, 0.1, 0.9, 0.9), "thousand", **sizes)[2] < 2
    assert to_stored((500, 500, 1500, 1500), "thousand", **sizes) == (960, 540, 1920, 1080)


def test_corners_in_any_order_are_clipped_and_boxes_without_area_refused(tmp_path) -> None:
    sizes = {"size": (100, 100), "grid": (100, 100)}
    assert to_stored((90, 80, -20, 10), "stored", **sizes) == (0, 10, 90, 80)
    assert to_stored((120, 10, 150, 40), "stored", **sizes) is None, "wholly outside"
    assert to_stored((10, 10, 10, 40), "stored", **sizes) is None
    outside = asked(tmp_path, **BOX, text="<answer>(120,10),(150,40)</answer>", size=[100, 100])
    assert (outside["prediction"], outside["outcome"]) == (None, "oov") and outside["given"][0] == 120
    two = asked(tmp_path, **BOX, text="(1,1),(5,5) or (2,2),(9,9)", size=[100, 100])
    assert (two["prediction"], two["outcome"]) == (None, "ambiguous")


@given(st.tuples(*[st.floats(0, 1) for _ in range(4)]), st.sampled_from(list(EXAMPLES)))
def test_every_frame_gives_the_box_back(corners, coordinates) -> None:
    """Written in a frame by plain arithmetic and read again."""
    size, grid = (1280, 1024), (644, 504)
    scale = {"grid": grid, "stored": size, "unit": (1, 1)}.get(coordinates, (1000, 1000))
    a, b, c, d = corners
    box = [a * scale[0], b * scale[1], c * scale[0], d * scale[1]]
    if coordinates == "thousand_yx":
        box = [box[1], box[0], box[3], box[2]]
    found = to_stored(tuple(box), coordinates, size=size, grid=grid)
    if a == c or b == d:
        return
    truth = (min(a, c) * 1280, min(b, d) * 1024, max(a, c) * 1280, max(b, d) * 1024)
    if found is not None:
        assert found == pytest.approx(truth, abs=1e-6)
    else:
        assert min(truth[2] - truth[0], truth[3] - truth[1]) < 1e-9


@pytest.mark.parametrize("coordinates", EXAMPLES)
def test_the_examples_are_boxes(coordinates) -> None:
    (box,) = parse_boxes(EXAMPLES[coordinates])
    assert iou(to_stored(box, coordinates, size=(420, 300), grid=(420, 300)), (0, 0, 420, 300)) > 0.05


def test_a_minimal_foreign_file_is_complete_after_reading(tmp_path) -> None:
    row = asked(tmp_path, **MINIMAL, text="<answer>Calot triangle dissection</answer>")
    assert row["prediction"] == "calot triangle dissection" and row["outcome"] == "ok"
    assert (row["sample_index"], row["protocol"], row["finish_reason"]) == (0, "open", "stop")
    assert row["labels"]["tools"] is None, "not labelled, not: none present"
    assert row["valid_format"] and row["options"] == []


def test_an_answer_without_text_is_brought_into_the_vocabularys_spelling(tmp_path) -> None:
    native = asked(tmp_path, **MINIMAL, prediction="CalotTriangleDissection")
    assert native["prediction"] == "calot triangle dissection" and native["outcome"] == "ok"
    strange = asked(tmp_path, **MINIMAL, prediction="lunch")
    assert (strange["prediction"], strange["outcome"]) == (None, "oov"), "wrong, and never a class"
    blocked = asked(tmp_path, **MINIMAL, outcome="blocked")
    assert (blocked["prediction"], blocked["outcome"]) == (None, "blocked")
    # Its boxes are in pixels of the stored picture, whatever the frame of the model that wrote them.
    box = asked(tmp_path, **BOX, prediction="(20,10),(60,50)", coordinates="thousand", size=[50, 100])
    assert box["prediction"] == "(20,10),(50,50)"


def test_parquet_reads_like_json_lines(tmp_path) -> None:
    rows = [
        MINIMAL
        | {"sample_id": str(k), "text": f"<answer>{p}</answer>", "prediction": None, "options": list(PHASES)}
        for k, p in enumerate(PHASES)
    ]
    rows[3] |= {"text": None, "prediction": PHASES[0]}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert list(read_predictions(tmp_path / "p.parquet")) == read(tmp_path / "p.jsonl", *rows)
    (tmp_path / "q.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(PredictionError, match=r"q\.parquet"):
        list(read_predictions(tmp_path / "q.parquet"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": None}, "video: Field required"),
        ({"task": "cooking"}, "task: Input should be"),
        ({"frame": "x"}, "frame: "),
        ({"text": None}, "give text"),
        ({"colour": "red"}, "colour: .*known fields: sample_id"),
        ({"finish_reason": "tired"}, "finish_reason"),
        ({"labels": {"tool": []}}, r"labels\.tool"),
        ({"size": [1]}, "size"),
    ],
)
def test_a_bad_row_names_file_line_and_field(tmp_path, change, message) -> None:
    good = MINIMAL | {"text": "x"}
    bad = {k: v for k, v in (good | {"sample_id": "b"} | change).items() if v is not None}
    with pytest.raises(PredictionError, match=rf"p\.jsonl:2: .*{message}"):
        read(tmp_path / "p.jsonl", good, bad)


def test_boxes_without_the_sizes_they_need_are_refused(tmp_path) -> None:
    text = {"text": "<answer>(1,2),(3,4)</answer>"}
    with pytest.raises(PredictionError, match=r"p\.jsonl:1: size: .*'thousand'"):
        asked(tmp_path, **BOX, **text, coordinates="thousand")
    with pytest.raises(PredictionError, match=r"p\.jsonl:1: grid: "):
        asked(tmp_path, **BOX, **text, coordinates="grid", size=[10, 10])
    assert asked(tmp_path, **BOX, **text)["prediction"] == "(1,2),(3,4)"


def test_a_question_answered_twice_is_refused(tmp_path) -> None:
    row = MINIMAL | {"text": "x"}
    assert len(read(tmp_path / "p.jsonl", row, row | {"sample_index": 1})) == 2
    with pytest.raises(PredictionError, match=r"p\.jsonl:3: sample_id 'a' .* stands on 1"):
        read(tmp_path / "p.jsonl", row, row | {"sample_index": 1}, row)


def test_damaged_and_missing_files_are_named_and_a_cut_off_line_is_left_out(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    good = json.dumps(MINIMAL | {"text": "x"})
    path.write_text(f"{good}\nnot json\n")
    with pytest.raises(PredictionError, match=r"p\.jsonl:2: not JSON"):
        list(read_predictions(path))
    path.write_text(f"{good}\n[1]\n")
    with pytest.raises(PredictionError, match=r"p\.jsonl:2: row"):
        list(read_predictions(path))
    path.write_text(f'{good}\n{{"sample_id": "cut o')
    assert len(list(read_predictions(path))) == 1
    with pytest.raises(PredictionError, match="no such"):
        list(read_predictions(tmp_path / "none.jsonl"))


def test_what_a_file_claims_is_read_anew(tmp_path) -> None:
    """One parser feeds every metric: a reading of another program or version does not count."""
    claims = {"prediction": "preparation", "outcome": "ok", "rung": "exact", "valid_format": True}
    row = asked(tmp_path, **MINIMAL, **claims, text="I cannot help with this picture.")
    assert (row["prediction"], row["outcome"], row["valid_format"]) == (None, "refused", False)
    assert judge(row) == row


def test_letters_name_the_options_in_the_order_offered(tmp_path) -> None:
    order = list(PHASES[::-1])
    fields = MINIMAL | {"protocol": "options", "options": order, "letters": True}
    row = asked(tmp_path, **fields, text="<answer>B</answer>")
    assert (row["prediction"], row["rung"]) == (order[1], "letter")
    silent = asked(tmp_path, **(fields | {"letters": False}), text="<answer>B</answer>")
    assert silent["prediction"] is None, "no letters were offered"
    bias = letter_counts(
        [row, asked(tmp_path, **(fields | {"answer": order[0]}), text="<answer>B</answer>"), silent]
    )
    assert bias["B"] == {"chosen": 2, "right": 0}
    assert bias["A"] == {"chosen": 0, "right": 1} and bias["G"] == {"chosen": 0, "right": 1}


def test_near_spellings_count_only_where_they_are_admitted(tmp_path) -> None:
    row = asked(tmp_path, **MINIMAL, text="<answer>galbladder dissecton</answer>")
    assert row["prediction"] is None
    near = judge(row, fuzzy=True)
    assert (near["prediction"], near["outcome"], near["rung"]) == (
        "gallbladder dissection",
        "repaired",
        "fuzzy",
    )


@settings(max_examples=200)
@given(
    st.one_of(st.text(), st.from_regex(r"\s*<answer>[^<]*</answer>.*", fullmatch=True)),
    st.sampled_from(
        ["phase_recognition", "triplet_extraction", "tool_localization", "cvs_criteria_assessment"]
    ),
    st.sampled_from(list(EXAMPLES)),
    st.sampled_from(["stop", "length", "blocked", "error"]),
)
def test_nothing_a_model_writes_breaks_the_reading(text, task, coordinates, reason) -> None:
    dataset = "endoscapes" if task.startswith("cvs") else "cholect50"
    row = {
        "dataset": dataset,
        "task": task,
        "text": text,
        "finish_reason": reason,
        "options": [],
        "letters": False,
        "reasoning": True,
        "coordinates": coordinates,
        "size": [1280, 1024],
        "grid": [644, 504],
        "prediction": None,
        "outcome": None,
    }
    found = judge(row)
    assert (found["prediction"] is not None) == (found["outcome"] in ("ok", "repaired"))
    assert judge(found) == found
    if reason in ("blocked", "error"):
        assert found["prediction"] is None


def test_a_result_is_final_up_to_half_a_percent_of_failures() -> None:
    rows = [{"outcome": "api_error"}, *[{"outcome": "ok"}] * 199]
    assert is_final(rows) and not is_final([*rows, {"outcome": "api_error"}])
    assert is_final([{"outcome": "blocked"}] * 10), "blocked is what the model does"


def test_usage_counts_tokens_and_money_and_takes_percentiles_of_what_was_answered() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "finish_reason": reason,
            "tokens_in": 1000,
            "tokens_out": 10,
            "attempts": 2,
            "latency_s": float(latency),
        }
        for reason, latency in zip(["stop"] * 37 + ["length"] + ["blocked"] * 2, rng.random(40), strict=True)
    ]
    answered = [r["latency_s"] for r in rows]
    rows.append(
        {"finish_reason": "error", "tokens_in": 0, "tokens_out": 0, "attempts": 5, "latency_s": 300.0}
    )
    found = usage(rows, (2.0, 8.0))
    assert found["latency_p50"] == np.percentile(answered, 50, method="inverted_cdf")
    assert found["latency_p95"] == np.percentile(answered, 95, method="inverted_cdf")
    assert found["cost_usd"] == pytest.approx((40 * 1000 * 2 + 40 * 10 * 8) / 1e6)
    assert (found["requests"], found["attempts"], found["failures"], found["blocked"]) == (41, 85, 1, 2)
    assert usage(rows[-1:])["latency_p50"] is None and usage(rows)["cost_usd"] is None


def test_scores_use_the_first_completion_of_a_question() -> None:
    assert main_rows([{"sample_index": 0}, {"sample_index": 1}]) == [{"sample_index": 0}]
