"""Parsing and answer extraction: the paper's own forms, a table of real-style answers, and properties over
arbitrary text.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgr1.corpora.schema import Labels
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
from surgr1.reasoning.faithfulness import check_trace
from surgr1.reasoning.support import Seen
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
OUT = Outcome
A = "<think>Level 1: x.</think><answer>{}</answer>".format

TABLE = [
    (PHASE, A("calot triangle dissection"), "calot triangle dissection", OUT.OK),
    (PHASE, A("Calot Triangle Dissection"), "calot triangle dissection", OUT.OK),
    (PHASE, A("CalotTriangleDissection"), "calot triangle dissection", OUT.OK),
    (PHASE, A("carlot-triangle-dissection"), "calot triangle dissection", OUT.OK),
    (PHASE, A("the gallbladder extraction"), "gallbladder retraction", OUT.OK),
    (PHASE, A("**Gallbladder Retraction.**"), "gallbladder retraction", OUT.OK),
    (PHASE, A("Clipping & Cutting"), "clipping and cutting", OUT.OK),
    (PHASE, A("The phase is gallbladder packaging"), "gallbladder packaging", OUT.OK),
    (PHASE, A("It is most likely preparation."), "preparation", OUT.REPAIRED),
    (PHASE, A("dissection"), None, OUT.OOV),
    (PHASE, A("preparation or gallbladder dissection"), None, OUT.AMBIGUOUS),
    (PHASE, A("gallbladder"), None, OUT.OOV),
    (PHASE, A(""), None, OUT.EMPTY),
    (PHASE, A("none"), None, OUT.OOV),
    (PHASE, A("B"), None, OUT.OOV),
    (LETTERS, A("B"), "calot triangle dissection", OUT.OK),
    (LETTERS, A("(B) Calot triangle dissection"), "calot triangle dissection", OUT.OK),
    (LETTERS, A("(B) preparation"), None, OUT.AMBIGUOUS),
    (LETTERS, A("Z"), None, OUT.OOV),
    (PHASE, A("I'm sorry, I cannot assist with that."), None, OUT.REFUSED),
    (PHASE, "preparation", "preparation", OUT.REPAIRED),
    (PHASE, "", None, OUT.EMPTY),
    (PHASE, "   \n", None, OUT.EMPTY),
    (PHASE, "<think>Level 1: a grasper", None, OUT.TRUNCATED),
    (PHASE, "<think>x</think>preparation", "preparation", OUT.REPAIRED),
    (
        PHASE,
        "<think>a</think><answer>preparation</answer><answer>gallbladder packaging</answer>",
        "gallbladder packaging",
        OUT.OK,
    ),
    (PHASE, "<think>a</think>b</think><answer>preparation</answer>", "preparation", OUT.OK),
    (
        PHASE,
        "Thinking: This is a Level 3 task.\nLevel 1: g.\nLevel 2: r.\nLevel 3: p.\nAnswer: Preparation",
        "preparation",
        OUT.REPAIRED,
    ),
    (BYPASS, A("gastrojejunal anastomosis"), "gastrojejunal anastomosis", OUT.OK),
    (BYPASS, A("jejunojejunal anastomosis"), "jejunojejunal anastomosis", OUT.OK),
    (BYPASS, A("anastomosis"), None, OUT.OOV),
    (BYPASS, A("closure of the mesenteric defect"), "closure mesenteric defect", OUT.OK),
    (TRIPLET, A("grasper retract gallbladder"), "grasper retract gallbladder", OUT.OK),
    (TRIPLET, A("clipper clip cystic_duct"), "clipper clip cystic duct", OUT.OK),
    (TRIPLET, A("(grasper, retract, gallbladder)"), "grasper retract gallbladder", OUT.OK),
    (
        TRIPLET,
        A("hook dissect gallbladder; grasper retract gallbladder"),
        "grasper retract gallbladder; hook dissect gallbladder",
        OUT.OK,
    ),
    (
        TRIPLET,
        A("grasper retract gallbladder, hook dissect peritoneum"),
        "grasper retract gallbladder; hook dissect peritoneum",
        OUT.OK,
    ),
    (TRIPLET, A("scissors cut cystic artery; scissors dissect adhesion"), None, OUT.OOV),
    (TRIPLET, A("grasper fly gallbladder"), None, OUT.OOV),
    (TRIPLET, A("none"), "none", OUT.OK),
    (TRIPLET, A("grasper null_verb null_target"), "grasper null verb null target", OUT.OK),
    (TRIPLET, A(""), None, OUT.EMPTY),
    (TOOLS, A("hook, grasper"), "grasper, hook", OUT.OK),
    (TOOLS, A("grasper and hook"), "grasper, hook", OUT.OK),
    (TOOLS, A("grasper, grasper"), "grasper", OUT.OK),
    (TOOLS, A("bipolar forceps"), "bipolar", OUT.OK),
    (TOOLS, A("specimenbag"), "specimen bag", OUT.OK),
    (TOOLS, A("grasper, laser"), None, OUT.OOV),
    (TOOLS, A("no instruments"), "none", OUT.OK),
    (TOOLS, A("hooked"), None, OUT.OOV),
    (TOOLS, A(""), None, OUT.EMPTY),
    (ACTION, A("Picking-up the needle"), "picking up the needle", OUT.OK),
    (ACTION, A("returning/dropping the needle"), "returning or dropping the needle", OUT.OK),
    (ACTION, A("pushing the needle through the tissue."), "pushing the needle through the tissue", OUT.OK),
    (ACTION, A("the needle"), None, OUT.OOV),
    (YES, A("yes"), "yes", OUT.OK),
    (YES, A("No."), "no", OUT.OK),
    (YES, A("No, fat remains"), "no", OUT.REPAIRED),
    (YES, A("yes or no"), None, OUT.AMBIGUOUS),
    (YES, A("maybe"), None, OUT.OOV),
    (CVS, A("not achieved"), "not achieved", OUT.OK),
    (CVS, A("achieved"), "achieved", OUT.OK),
    (CVS, A("The view is not achieved yet"), "not achieved", OUT.REPAIRED),
    (COUNT, A("2"), "2", OUT.OK),
    (COUNT, A("two"), "2", OUT.OK),
    (COUNT, A("There are three tools"), "3", OUT.REPAIRED),
    (COUNT, A("2 or 3"), None, OUT.AMBIGUOUS),
    (COUNT, A("many"), None, OUT.OOV),
    (GRID, A("left-bottom"), "left-bottom", OUT.OK),
    (GRID, A("bottom left"), "left-bottom", OUT.OK),
    (GRID, A("left"), None, OUT.OOV),
    (BOX, A("(327,506),(984,1047)"), "(327,506),(984,1047)", OUT.OK),
    (BOX, A("[327, 506, 984, 1047]"), "(327,506),(984,1047)", OUT.OK),
    (BOX, A('{"bbox_2d": [10, 20, 30, 40]}'), "(10,20),(30,40)", OUT.OK),
    (BOX, A("(30,40),(10,20)"), "(10,20),(30,40)", OUT.OK),
    (BOX, A("(10,20),(10,40)"), None, OUT.OOV),
    (BOX, A("(1,2),(3,4) or (5,6),(7,8)"), None, OUT.AMBIGUOUS),
    (BOX, A("left"), None, OUT.OOV),
]


@pytest.mark.parametrize(("spec", "text", "value", "outcome"), TABLE)
def test_answer_table(spec, text, value, outcome) -> None:
    found = extract(text, spec)
    assert (found.value, found.outcome) == (value, outcome)


def test_fuzzy_is_off_unless_asked_for() -> None:
    assert extract(A("gallblader packaging"), PHASE).outcome is OUT.OOV
    assert extract(A("gallblader packaging"), PHASE, fuzzy=True).value == "gallbladder packaging"


def test_the_papers_headless_level_one_and_opener() -> None:
    """Figures 3 and 8: text after the opener is Level 1, but carries no heading, so it earns no format."""
    text = (
        "<think>This is a Level 1 task requiring localization. Examining the field, I see two"
        " instruments.</think><answer>no</answer>"
    )
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
    st.text(max_size=200),
    words,
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<answer>",
                "</answer>",
                "Level 1:",
                "Level 3:",
                "grasper",
                "hook",
                "preparation",
                "(1,2),(3,4)",
                "yes",
                "2",
                ";",
            ]
        ),
        max_size=14,
    ).map(" ".join),
)
SPECS = [PHASE, LETTERS, TRIPLET, TOOLS, ACTION, YES, COUNT, BOX, GRID, CVS]


@settings(max_examples=1500, deadline=None)
@given(texts, st.sampled_from(SPECS), st.booleans())
def test_extraction_is_total_and_idempotent(text, spec, fuzzy) -> None:
    found = extract(text, spec, fuzzy=fuzzy)
    assert (found.value is None) == (found.outcome not in (OUT.OK, OUT.REPAIRED))
    if found.value is not None:
        again = extract(f"<answer>{found.value}</answer>", spec)
        assert again.value == found.value and again.outcome is OUT.OK


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


def _checks(text: str) -> dict[str, bool]:
    labels = Labels(
        tools=("grasper",), triplets=(("grasper", "retract", "gallbladder"),), phase="preparation"
    )
    seen = Seen(labels, "cholect50", load_procedure("laparoscopic cholecystectomy"), 854, 480)
    found = check_trace(parse(text), task=Task.TRIPLET_EXTRACTION, seen=seen, boxes=[], allowed=())
    return {f.check: f.ok for f in found}


def test_faithfulness_of_good_and_bad_traces() -> None:
    good = (
        "<think>Level 1: I see a grasper at the gallbladder, no clipper.\nLevel 2: The grasper retracts the"
        " gallbladder.</think><answer>grasper retract gallbladder</answer>"
    )
    assert all(_checks(good).values())
    for here, instead, check in (
        ("no clipper", "a clipper", "tools_supported"),
        ("I see a grasper", "I see tissue", "tools_grounded"),
        ("retracts", "leaves", "relations_stated"),
        ("retracts", "coagulates", "deeds_supported"),
        ("at the gallbladder", "in view", "level2_from_level1"),
        ("I see", "As the ground truth says, I see", "no_leak"),
        ("no clipper", "no clipper, 5 mm wide", "numbers_supported"),
        ("Level 2", "Level 3", "format"),
    ):
        assert here in good and not _checks(good.replace(here, instead))[check]
