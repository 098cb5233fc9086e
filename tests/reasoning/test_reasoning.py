"""Parsing and answer extraction: the paper's own forms, a table of real-style answers, and properties over arbitrary text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.answers import (
    extract,
    format_box,
    iou,
    normalise,
    parse_boxes,
    parse_triplets,
    spec_for,
)
from surgr1.reasoning.faithfulness import affirmed, check_trace
from surgr1.reasoning.trace import Outcome, Trace, parse, render

PHASE = spec_for(Task.PHASE_RECOGNITION, vocabulary("cholec80", "phase").names, "cholec80")
LETTERS = spec_for(Task.PHASE_RECOGNITION, vocabulary("cholec80", "phase").names, "cholec80", letters=True)
TRIPLET = spec_for(Task.TRIPLET_EXTRACTION, vocabulary("cholect50", "triplet").names, "cholect50")
TOOLS = spec_for(Task.TOOL_RECOGNITION, vocabulary("cholec80", "tool").names, "cholec80")
ACTION = spec_for(Task.ACTION_RECOGNITION, vocabulary("sar-rarp50", "action").names, "sar-rarp50")
YES = spec_for(Task.CVS_CRITERIA_ASSESSMENT)
COUNT = spec_for(Task.TOOL_COUNTING)
BOX = spec_for(Task.TOOL_LOCALIZATION)
GRID = spec_for(Task.GRID_POSITION_RECOGNITION, ("left-top", "right-top", "left-bottom", "right-bottom"))
CVS = spec_for(Task.OVERALL_CVS_ASSESSMENT, ("achieved", "not achieved"))
BYPASS = spec_for(Task.PHASE_RECOGNITION, vocabulary("multibypass140", "phase").names, "multibypass140")
O = Outcome
A = "<think>Level 1: x.</think><answer>{}</answer>".format

TABLE = [
    (PHASE, A("calot triangle dissection"), "calot triangle dissection", O.OK),
    (PHASE, A("Calot Triangle Dissection"), "calot triangle dissection", O.OK),
    (PHASE, A("CalotTriangleDissection"), "calot triangle dissection", O.OK),
    (PHASE, A("carlot-triangle-dissection"), "calot triangle dissection", O.OK),
    (PHASE, A("the gallbladder extraction"), "gallbladder retraction", O.OK),
    (PHASE, A("**Gallbladder Retraction.**"), "gallbladder retraction", O.OK),
    (PHASE, A("Clipping & Cutting"), "clipping and cutting", O.OK),
    (PHASE, A("The phase is gallbladder packaging"), "gallbladder packaging", O.OK),
    (PHASE, A("It is most likely preparation."), "preparation", O.REPAIRED),
    (PHASE, A("dissection"), None, O.OOV),
    (PHASE, A("preparation or gallbladder dissection"), None, O.AMBIGUOUS),
    (PHASE, A("gallbladder"), None, O.OOV),
    (PHASE, A(""), None, O.EMPTY),
    (PHASE, A("none"), None, O.OOV),
    (PHASE, A("B"), None, O.OOV),
    (LETTERS, A("B"), "calot triangle dissection", O.OK),
    (LETTERS, A("(B) Calot triangle dissection"), "calot triangle dissection", O.OK),
    (LETTERS, A("(B) preparation"), None, O.AMBIGUOUS),
    (LETTERS, A("Z"), None, O.OOV),
    (PHASE, A("I'm sorry, I cannot assist with that."), None, O.REFUSED),
    (PHASE, "preparation", "preparation", O.REPAIRED),
    (PHASE, "", None, O.EMPTY),
    (PHASE, "   \n", None, O.EMPTY),
    (PHASE, "<think>Level 1: a grasper", None, O.TRUNCATED),
    (PHASE, "<think>x</think>preparation", "preparation", O.REPAIRED),
    (
        PHASE,
        "<think>a</think><answer>preparation</answer><answer>gallbladder packaging</answer>",
        "gallbladder packaging",
        O.OK,
    ),
    (PHASE, "<think>a</think>b</think><answer>preparation</answer>", "preparation", O.OK),
    (
        PHASE,
        "Thinking: This is a Level 3 task.\nLevel 1: g.\nLevel 2: r.\nLevel 3: p.\nAnswer: Preparation",
        "preparation",
        O.REPAIRED,
    ),
    (BYPASS, A("gastrojejunal anastomosis"), "gastrojejunal anastomosis", O.OK),
    (BYPASS, A("jejunojejunal anastomosis"), "jejunojejunal anastomosis", O.OK),
    (BYPASS, A("anastomosis"), None, O.OOV),
    (BYPASS, A("closure of the mesenteric defect"), "closure mesenteric defect", O.OK),
    (TRIPLET, A("grasper retract gallbladder"), "grasper retract gallbladder", O.OK),
    (TRIPLET, A("clipper clip cystic_duct"), "clipper clip cystic duct", O.OK),
    (TRIPLET, A("(grasper, retract, gallbladder)"), "grasper retract gallbladder", O.OK),
    (
        TRIPLET,
        A("hook dissect gallbladder; grasper retract gallbladder"),
        "grasper retract gallbladder; hook dissect gallbladder",
        O.OK,
    ),
    (
        TRIPLET,
        A("grasper retract gallbladder, hook dissect peritoneum"),
        "grasper retract gallbladder; hook dissect peritoneum",
        O.OK,
    ),
    (TRIPLET, A("scissors cut cystic artery; scissors dissect adhesion"), None, O.OOV),
    (TRIPLET, A("grasper fly gallbladder"), None, O.OOV),
    (TRIPLET, A("none"), "none", O.OK),
    (TRIPLET, A("grasper null_verb null_target"), "grasper null verb null target", O.OK),
    (TRIPLET, A(""), None, O.EMPTY),
    (TOOLS, A("hook, grasper"), "grasper, hook", O.OK),
    (TOOLS, A("grasper and hook"), "grasper, hook", O.OK),
    (TOOLS, A("grasper, grasper"), "grasper", O.OK),
    (TOOLS, A("bipolar forceps"), "bipolar", O.OK),
    (TOOLS, A("specimenbag"), "specimen bag", O.OK),
    (TOOLS, A("grasper, laser"), None, O.OOV),
    (TOOLS, A("no instruments"), "none", O.OK),
    (TOOLS, A("hooked"), None, O.OOV),
    (TOOLS, A(""), None, O.EMPTY),
    (ACTION, A("Picking-up the needle"), "picking up the needle", O.OK),
    (ACTION, A("returning/dropping the needle"), "returning or dropping the needle", O.OK),
    (ACTION, A("pushing the needle through the tissue."), "pushing the needle through the tissue", O.OK),
    (ACTION, A("the needle"), None, O.OOV),
    (YES, A("yes"), "yes", O.OK),
    (YES, A("No."), "no", O.OK),
    (YES, A("No, fat remains"), "no", O.REPAIRED),
    (YES, A("yes or no"), None, O.AMBIGUOUS),
    (YES, A("maybe"), None, O.OOV),
    (CVS, A("not achieved"), "not achieved", O.OK),
    (CVS, A("achieved"), "achieved", O.OK),
    (CVS, A("The view is not achieved yet"), "not achieved", O.REPAIRED),
    (COUNT, A("2"), "2", O.OK),
    (COUNT, A("two"), "2", O.OK),
    (COUNT, A("There are three tools"), "3", O.REPAIRED),
    (COUNT, A("2 or 3"), None, O.AMBIGUOUS),
    (COUNT, A("many"), None, O.OOV),
    (GRID, A("left-bottom"), "left-bottom", O.OK),
    (GRID, A("bottom left"), "left-bottom", O.OK),
    (GRID, A("left"), None, O.OOV),
    (BOX, A("(327,506),(984,1047)"), "(327,506),(984,1047)", O.OK),
    (BOX, A("[327, 506, 984, 1047]"), "(327,506),(984,1047)", O.OK),
    (BOX, A('{"bbox_2d": [10, 20, 30, 40]}'), "(10,20),(30,40)", O.OK),
    (BOX, A("(30,40),(10,20)"), "(10,20),(30,40)", O.OK),
    (BOX, A("(10,20),(10,40)"), None, O.OOV),
    (BOX, A("(1,2),(3,4) or (5,6),(7,8)"), None, O.AMBIGUOUS),
    (BOX, A("left"), None, O.OOV),
]


@pytest.mark.parametrize(("spec", "text", "value", "outcome"), TABLE)
def test_answer_table(spec, text, value, outcome) -> None:
    found = extract(text, spec)
    assert (found.value, found.outcome) == (value, outcome)


def test_fuzzy_is_off_unless_asked_for() -> None:
    assert extract(A("gallblader packaging"), PHASE).outcome is O.OOV
    assert extract(A("gallblader packaging"), PHASE, fuzzy=True).value == "gallbladder packaging"


def test_the_papers_headless_level_one_and_opener() -> None:
    """Figures 3 and 8: text after the opener is Level 1, but carries no heading, so it earns no format."""
    text = "<think>This is a Level 1 task requiring localization. Examining the field, I see two instruments.</think><answer>no</answer>"
    parsed = parse(text)
    assert parsed.levels == {1: "Examining the field, I see two instruments."}
    assert parsed.headed == () and not parsed.is_format(1)
    assert parse("<think>This is a Level 1 task.</think><answer>no</answer>").levels == {}


def test_bold_and_dashed_headings() -> None:
    parsed = parse(
        "<think>**Level 1:** a. **Level 2 (relational):** b.\nLevel 3 - c</think><answer>x</answer>"
    )
    assert parsed.headed == (1, 2, 3) and parsed.levels[3] == "c"


@pytest.mark.parametrize(
    "text",
    [
        "<think>Level 1: a\nLevel 2: b</think><answer>x</answer>",
        "<think>Level 2: b\nLevel 1: a\nLevel 3: c</think><answer>x</answer>",
        "<think>Level 1: a\nLevel 2: b\nLevel 3:</think><answer>x</answer>",
        "<think>Level 1: a\nLevel 2: b\nLevel 3: c</think><answer>x</answer> and more",
        "<think>Level 1: a\nLevel 2: b\nLevel 3: c</think><answer>x</answer><answer>y</answer>",
        "Level 1: a\nLevel 2: b\nLevel 3: c<answer>x</answer>",
    ],
)
def test_what_is_not_the_form_of_a_level_three_task(text) -> None:
    assert not parse(text).is_format(3)


words = st.text(alphabet=st.sampled_from("abcdefghij klmno.,;:()<>/-_*\n12345"), max_size=120)
texts = st.one_of(
    st.text(max_size=200), words,
    st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "Level 1:", "Level 3:", "grasper", "hook", "preparation", "(1,2),(3,4)", "yes", "2", ";"]), max_size=14).map(" ".join),
)  # fmt: skip
SPECS = [PHASE, LETTERS, TRIPLET, TOOLS, ACTION, YES, COUNT, BOX, GRID, CVS]


@settings(max_examples=1500, deadline=None)
@given(texts, st.sampled_from(SPECS), st.booleans())
def test_extraction_is_total_and_idempotent(text, spec, fuzzy) -> None:
    found = extract(text, spec, fuzzy=fuzzy)
    assert (found.value is None) == (found.outcome not in (O.OK, O.REPAIRED))
    if found.value is not None:
        again = extract(f"<answer>{found.value}</answer>", spec)
        assert again.value == found.value and again.outcome is O.OK


@settings(max_examples=1500, deadline=None)
@given(texts, st.sampled_from([PHASE, ACTION, TOOLS]))
def test_no_label_from_text_that_lacks_its_words(text, spec) -> None:
    """Every word of an extracted label, or of one of its aliases, stands in the text."""
    found = extract(text, spec)
    if found.value in (None, "none"):
        return
    have = set(normalise(text).split())
    for label in found.value.split(", "):
        spellings = [label, *(a for a, n in spec.aliases.items() if n == label)]
        assert any(set(normalise(s).split()) <= have for s in spellings)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.from_regex(r"[a-z][a-z ,]{0,40}[a-z]", fullmatch=True), min_size=1, max_size=3))
def test_render_then_parse(parts) -> None:
    trace = Trace(dict(enumerate(parts, start=1)), "preparation")
    parsed = parse(render(trace))
    assert (
        parsed.levels == dict(trace.levels)
        and parsed.answer == "preparation"
        and parsed.is_format(len(parts))
    )


def test_iou_and_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert format_box(parse_boxes("[3.6, 1, 1.2, 9]")[0]) == "(1,1),(4,9)"
    assert parse_triplets("grasper, retract, cystic duct") == [("grasper", "retract", "cystic duct")]


class _Labels:
    tools = ("grasper",)
    triplets = (("grasper", "retract", "gallbladder"),)
    phase = "preparation"
    action = None


def _checks(text: str) -> dict[str, bool]:
    parsed = parse(text)
    findings = check_trace(
        parsed,
        task=Task.TRIPLET_EXTRACTION,
        labels=_Labels(),
        procedure=load_procedure("laparoscopic cholecystectomy"),
        answer_ok=True,
    )
    return {f.check: f.ok for f in findings}


def test_faithfulness_of_good_and_bad_traces() -> None:
    good = "<think>Level 1: I see a grasper, no clipper.\nLevel 2: The grasper retracts the gallbladder.</think><answer>grasper retract gallbladder</answer>"
    assert all(_checks(good).values())
    assert not _checks(good.replace("no clipper", "a clipper"))["tools_supported"]
    assert not _checks(good.replace("I see a grasper", "I see tissue"))["tools_grounded"]
    assert not _checks(good.replace("retracts", "leaves"))["relations_stated"]
    assert not _checks(good.replace("I see", "As the ground truth says, I see"))["no_leak"]
    assert not _checks(good.replace("Level 2", "Level 3"))["format"]
    assert re.search("clipper", good) and affirmed("there is no clipper", {"clipper": "clipper"}) == []
