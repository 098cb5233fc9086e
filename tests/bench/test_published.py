"""Published tables against the paper's text, cell by cell, and the recomputed claims against the printed
numbers (evaluation.md B0, B7, section F fixtures 1 and 5).
"""

import os
import re
from pathlib import Path

import pytest

from surgr1.bench import published
from surgr1.bench.cards import all_cards
from surgr1.bench.metrics import family_of
from surgr1.bench.published import PublishedError, check, headlines, rows_for, table, tables

ROOT = Path(__file__).resolve().parents[2]
REFERENCE_MARK = re.compile(r"\s*[⁰¹²³⁴⁵⁶⁷⁸⁹]+$")
# Our columns in the order of the printed header; the header itself is asserted below.
HEADERS = {
    "4": "Inst. Verb Target Triplet Inst. Verb Target Triplet",
    "5": "Accuracy Recall Precision Jaccard",
    "6": "Accuracy Recall Precision Jaccard",
    "7": "Accuracy Recall Precision Jaccard",
    "9": "Overall Avg C1 C2 C3",
    "10": "Overall Avg C1 C2 C3",
    "11": "Inst. Verb Target Triplet",
    "12": "Accuracy Precision Recall Jaccard",
    "13": "Accuracy Precision Recall Jaccard",
    "14": "Accuracy Precision Recall Jaccard",
}
COLUMNS = {
    "Overall Avg C1 C2 C3": ["pooled", "average", "c1", "c2", "c3"],
    "Inst. Verb Target Triplet": ["map_i", "map_v", "map_t", "map"],
    HEADERS["4"]: ["tool", "verb", "target", "accuracy", "map_i", "map_v", "map_t", "map"],
}


@pytest.fixture(scope="module")
def paper() -> list[str]:
    """Lines of the paper's text. It is not ours to ship: absent means skip."""
    folder = Path(os.environ.get("SURGR1_REFERENCE", ROOT.parent / "shared" / "reference"))
    path = folder / "surg-r1-paper.md"
    if not path.is_file():
        pytest.skip(f"no {path}; SURGR1_REFERENCE names the folder of surg-r1-paper.md")
    return path.read_text(encoding="utf-8").splitlines()


def block(paper: list[str], number: str) -> list[list[str]]:
    """The tab-separated lines below the caption of a table."""
    starts = [i for i, line in enumerate(paper) if re.match(rf"Table {number} (?!compares|summarizes)", line)]
    (start,) = starts
    found: list[list[str]] = []
    for line in paper[start + 1 :]:
        if "\t" in line:
            found.append([c.strip() for c in line.rstrip().split("\t")])
        elif line.strip() and found:
            break
    return found


@pytest.mark.parametrize("number", HEADERS)
def test_every_cell_of_the_papers_tables_is_as_printed(paper, number) -> None:
    ours = table(f"table{int(number):02d}")
    lines = block(paper, number)
    first = next(i for i, cells in enumerate(lines) if REFERENCE_MARK.search(cells[0]))
    head = lines[first - 1]
    assert " ".join(c for c in head if c and c not in ("Model", "Thinking")) == HEADERS[number]
    names = COLUMNS.get(HEADERS[number], HEADERS[number].lower().split())
    assert [c.name for c in ours.columns] == names
    printed = []
    for cells in lines[first:]:
        thinking = {"✓": True, "–": False}.get(cells[1])
        scores = cells[1:] if thinking is None else cells[2:]
        printed.append((REFERENCE_MARK.sub("", cells[0]), thinking, scores))
    assert [(r.printed_as, r.reasoning, list(r.printed.values())) for r in ours.rows] == printed


def test_table_1_is_as_printed_and_repeats_the_other_tables(paper) -> None:
    head, *lines = block(paper, "1")
    ours = table("table01")
    assert [r.printed_as for r in ours.rows] == head[1:]
    cards = ("cholect50-triplet", "cholec80-phase", "multibypass140-phase")
    assert [c[0] for c in lines] == ["CholecT50 Triplet", "Cholec80 Phase", "MultiBypass140 Phase"]
    for card, cells in zip(cards, lines, strict=True):
        assert [r.printed[card] for r in ours.rows] == cells[1:]
        for row in ours.rows:
            (detail,) = [r for r in rows_for(card) if r.model == row.model]
            assert detail.metrics["accuracy"] == row.value(card) and detail.table != "table01"


def test_stated_numbers_are_in_the_papers_text(paper) -> None:
    text = "\n".join(paper)
    ours = [h for h in headlines() if h.where.startswith("paper") or "header" in h.where]
    assert len(ours) == 13
    for h in ours:
        assert re.search(rf"\b{re.escape(h.printed)}(%| percentage point)", text), h


def test_the_bars_named_in_the_evaluation_report_are_the_stored_ones(paper) -> None:
    """evaluation.md B7 lists the external bars and the ends of the public ones."""
    folder = Path(os.environ.get("SURGR1_REFERENCE", ROOT.parent / "shared" / "reference"))
    text = (folder / "evaluation.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"other 9 external bars on the page \(([\d. ]+)\)", text)
    assert [r.printed["arena"] for r in table("page_external").rows[2:]] == listed.split()
    (ends,) = re.findall(r"16 public bars on the page \(([\d.]+) \.\.\. ([\d.]+)\)", text)
    bars = [r.printed["arena"] for r in table("page_public").rows if table("surgvlm_bench").row(r.model)]
    assert len(bars) == 16 and (bars[0], bars[-1]) == ends


def test_every_result_table_is_there_and_belongs_to_cards_that_exist() -> None:
    assert {t.id for t in tables()} >= {f"table{n:02d}" for n in (1, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14)}
    known = {c.id for c in all_cards()}
    assert (
        {c for t in tables() for c in t.cards} == {c.id for c in all_cards() if c.group != "extra"} <= known
    )
    counts = {t.id: len(t.rows) for t in tables()}
    assert [counts[f"table{n:02d}"] for n in (4, 5, 6, 7, 9, 14)] == [20, 20, 20, 13, 11, 11]
    assert len({r.model for t in tables() for r in t.rows}) == 23
    for t in tables():
        for r in t.rows:
            assert r.protocol in ("options", "open", "unknown")
            limit = 600 if "arena_sum" in r.printed else 100
            assert all(0 <= r.value(c.name) <= limit for c in t.columns)
    with pytest.raises(PublishedError, match="table99"):
        table("table99")


def test_columns_bear_the_names_of_our_metrics() -> None:
    cards = {c.id: c for c in all_cards()}
    for t in tables():
        for column in t.columns:
            if column.card:
                card = cards[column.card]
                assert column.metric in family_of(card.kind, card.labels).scheme.metrics, (t.id, column)


def test_the_sixteen_carried_over_rows_agree_with_surgvlm_bench_and_carry_its_protocol() -> None:
    for table_id, column in (("table04", "triplet"), ("table05", "phase"), ("table06", "action")):
        optioned = [r for r in table(table_id).rows if r.protocol == "options"]
        assert len(optioned) == 16
        for row in optioned:
            theirs = table("surgvlm_bench").row(row.model, "options")
            assert theirs is not None and theirs.value(column) == row.value("accuracy")
        others = {r.model for r in table(table_id).rows if r.protocol == "unknown"}
        assert others == {"gpt-5.1", "gemini-3.0-pro", "qwen2.5-vl-7b-surg", "surg-r1"}


def whole(printed: str, n: int) -> bool:
    """Whether some count k of n gives the printed percentage."""
    digits = len(printed.partition(".")[2])
    k = round(float(printed) * n / 100)
    return any(abs(round(100 * c / n, digits) - float(printed)) < 1e-9 for c in (k - 1, k, k + 1))


def test_stored_numbers_of_questions_fit_the_accuracies_and_others_do_not() -> None:
    fitted = {}
    for t in tables():
        for r in t.rows:
            if r.n is not None:
                fitted[t.id] = fitted.get(t.id, 0) + 1
                assert whole(r.printed["accuracy"], r.n), (t.id, r.model)
            for column, n in t.questions.items():
                assert whole(r.printed[column], n), (t.id, r.model, column)
    assert fitted == {
        "table04": 16,
        "table05": 4,
        "table06": 18,
        "table07": 12,
        "table12": 11,
        "table13": 11,
        "table14": 11,
    }
    # The rows without an N do not share the table's.
    gpt = {t: table(t).row("gpt-5.1").printed["accuracy"] for t in ("table04", "table06", "table07")}
    assert not whole(gpt["table04"], 1733) and not whole(gpt["table06"], 1000)
    assert not whole(gpt["table07"], 881)


def test_overall_cvs_is_the_pooled_accuracy_in_all_22_rows_and_avg_the_mean() -> None:
    for t in (table("table09"), table("table10")):
        for r in t.rows:
            assert round(published.pooled_accuracy(t.id, r.model), 2) == r.value("pooled")
            counts = {c: round(n * r.value(c) / 100) / n for c, n in t.questions.items()}
            assert round(100 * sum(counts.values()) / 3, 2) == r.value("average")
            assert r.value("pooled") > min(r.value(c) for c in t.questions), "so it is no joint accuracy"
    with pytest.raises(PublishedError, match="no row of gpt"):
        published.pooled_accuracy("table09", "gpt-5.1")


def test_rows_of_a_card_carry_their_protocol_and_are_listed_once() -> None:
    rows = rows_for("cholec80-phase")
    assert len(rows) == 20 + 4, "Table 5, and SurgVLM's own models"
    assert len({(r.model, r.protocol) for r in rows}) == 24
    ours = next(r for r in rows if r.model == "surg-r1")
    assert ours.metrics == {"accuracy": 80.90, "recall": 67.26, "precision": 71.81, "jaccard": 55.87}
    assert (ours.table, ours.protocol, ours.n, ours.reasoning) == ("table05", "unknown", 2000, True)
    both = [r.protocol for r in rows if r.model == "surgvlm-72b"]
    assert both == ["options", "open"]
    # Tables 12-14 print precision before recall; by name it makes no difference.
    renji = next(r for r in rows_for("renji-phase") if r.model == "qwen2.5-vl-7b")
    assert (renji.metrics["precision"], renji.metrics["recall"]) == (1.54, 14.29)
    assert rows_for("endovis18-vqa") == ()


def test_every_bar_and_stated_number_is_checked_once() -> None:
    claims = check()
    assert len({(c.claim, c.where) for c in claims}) == len(claims)
    bars = [c for c in claims if c.where.endswith(("panel b", "panel c"))]
    assert len(bars) == 11 + 20
    assert len(claims) == len(bars) + 20 + len(headlines()) + 2
    assert all(c.reading and (c.value is None) == (c.verdict == "not reproducible") for c in claims)
    assert all(c.reason for c in claims if c.verdict != "reproduced")


def verdicts(where: str) -> dict[str, str]:
    return {c.claim: c.verdict for c in check() if where in c.where}


def test_all_external_and_sixteen_public_bars_are_reproduced() -> None:
    assert set(verdicts("panel b").values()) == {"reproduced"}
    public = verdicts("panel c")
    assert sorted(public.values()) == ["not reproducible"] * 4 + ["reproduced"] * 16
    open_ones = {k.removeprefix("Public Arena Score of ") for k, v in public.items() if v != "reproduced"}
    assert open_ones == {"Surg-R1-7B (Ours)", "GPT-5.1", "Qwen2.5-VL-7B-Surg", "Gemini-3.0-Pro"}
    reason = next(c.reason for c in check() if c.printed == 62.5)
    assert "57.66" in reason and "144.4" in reason, "62.5 x 6 - 230.63, evaluation.md B5"


def test_headlines_get_the_values_and_verdicts_of_the_evaluation_report() -> None:
    by_id = {h.id: h for h in headlines()}
    found = {k: next(c for c in check() if (c.claim, c.where) == (h.says, h.where)) for k, h in by_id.items()}
    expected = {
        "public-surg-r1": 57.66,
        "public-gpt-5.1": 28.49,
        "public-gemini-3.0-pro": 29.76,
        "external-surg-r1": 60.05,
        "external-qwen2.5-vl-7b-surg": 44.89,
        "external-gap": 15.16,
        "page-surgvlm-72b": 56.04,
        "gap-cholect50-triplet": 44.92,
        "gap-sar-rarp50-action": 16.60,
        "gap-cholec80-phase": 28.55,
        "gap-cuhk-action": 13.77,
        "gap-strasbourg-phase": 17.23,
        "gap-renji-phase": 36.92,
        "surgvlm-improvement": 75.38,
    }
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, abs=0.0051) and found[key].verdict == "reproduced", (
            key
        )
    rest = {k: c.verdict for k, c in found.items() if k not in expected}
    assert rest == {
        "header-surg-r1": "differs",
        "page-surg-r1": "differs",
        "v1-surg-r1": "not reproducible",
        "v1-gemini-3.0-pro": "not reproducible",
        "v1-gpt-5.1": "not reproducible",
        "page-gpt-5.1": "not reproducible",
        "page-gemini-3.0-pro": "not reproducible",
    }
    alike = found["public-gpt-5.1"].reason
    assert "57.66 / 29.03 / 30.27" in alike and "60.84 / 28.49 / 29.76" in alike
    assert "15.07" in found["external-gap"].reason
    best = {k: found[f"gap-{k}"].reason for k in ("renji-phase", "sar-rarp50-action", "cuhk-action")}
    assert "Llama-4" in best["renji-phase"] and "26.3" in best["renji-phase"]
    assert "Gemma3" in best["sar-rarp50-action"] and "14.9" in best["sar-rarp50-action"]
    assert "LLaVA" in best["cuhk-action"] and "8.1" in best["cuhk-action"]
    assert "bar 62.5" in found["page-surg-r1"].reason


def test_a_wrong_cell_changes_the_verdict(monkeypatch) -> None:
    """The verdicts are computed: spoil one number and they turn."""
    text = published._text

    def spoiled(name: str) -> str:
        return text(name).replace("57.66,65.36", "67.66,65.36") if name == "table12.csv" else text(name)

    published.tables.cache_clear()
    monkeypatch.setattr(published, "_text", spoiled)
    try:
        found = {c.claim: c for c in check()}
    finally:
        published.tables.cache_clear()
    bar = found["External Arena Score of Surg-R1-7B (Ours)"]
    assert bar.verdict == "differs" and bar.value == pytest.approx(60.048 + 10 / 6, abs=0.001)
    assert found["Surg-R1's average Arena Score on external data"].verdict == "differs"
    assert found["External Arena Score of Llama-4-Scout-17B"].verdict == "reproduced"


def test_a_csv_that_does_not_fit_its_provenance_is_named(monkeypatch) -> None:
    text = published._text
    monkeypatch.setattr(
        published, "_text", lambda n: text(n).replace("recall,", "", 1) if n == "table05.csv" else text(n)
    )
    published.tables.cache_clear()
    try:
        with pytest.raises(PublishedError, match=r"table05\.csv has columns"):
            tables()
    finally:
        published.tables.cache_clear()
