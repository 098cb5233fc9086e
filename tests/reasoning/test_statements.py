"""Sentences as people and models write them against statements written down by hand; negation; the ontology's
own sentences; any text at all.
"""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgr1.ontology.procedures import load_procedure, procedure_names
from surgr1.reasoning.findings import FINDINGS, THINGS
from surgr1.reasoning.statements import Statement, read, read_text
from surgr1.reasoning.trace import parse

CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
PROSTATECTOMY = "robot-assisted radical prostatectomy"
BYPASS = "laparoscopic roux-en-y gastric bypass"


def short(s: Statement) -> str:
    """A statement in one line; "!" is negated."""
    sign = "!" if s.negated else ""
    if s.kind == "other":
        return "unread"
    if s.kind == "deed" and s.predicate == "null verb":
        return f"{sign}idle {s.subject}"
    if s.kind in ("deed", "place", "count"):
        middle = s.predicate if s.kind == "deed" else ""
        return sign + " ".join(p for p in (s.kind, s.subject or "-", middle, s.object) if p)
    return f"{sign}{s.kind} {s.subject}"


def short_all(text: str, procedure: str) -> list[str]:
    return [short(s) for s in read_text(text, 1, load_procedure(procedure))]


CHOLECYSTECTOMY_SENTENCES = {
    # Seen, and where.
    "A grasper is visible in the upper left of the image.": ["tool grasper", "place grasper left-top"],
    "There is a hook in the lower right quadrant.": ["tool hook", "place hook right-bottom"],
    "The clip applier can be seen on the right side.": ["tool clipper", "place clipper right"],
    "Bipolar forceps are present at the bottom left corner.": ["tool bipolar", "place bipolar left-bottom"],
    "In view: a grasper with two long fenestrated jaws at the left-top, a hook with ceramic sleeve.": [
        "tool grasper",
        "place grasper left-top",
        "tool hook",
    ],
    "The hook is thin L-shaped tip, at the right-bottom.": ["tool hook", "place hook right-bottom"],
    "The cystic duct and the cystic artery are visible.": ["tissue cystic duct", "tissue cystic artery"],
    "The gallbladder lies at the left-top.": ["tissue gallbladder", "place gallbladder left-top"],
    "A hook near the gallbladder is visible.": ["tool hook"],
    "The calot triangle is cleared, at the left-top.": ["cue clear window", "place calot triangle left-top"],
    "At the left-top.": ["unread"],
    "The hook is not at the left-top.": ["tool hook", "!place hook left-top"],
    # Denied.
    "I cannot see any scissors.": ["!tool scissors"],
    "There aren't any instruments in the picture.": ["!tool any"],
    "No tools are visible.": ["!tool any"],
    "Neither the clipper nor the scissors are in view.": ["!tool clipper", "!tool scissors"],
    "No hook, clipper or scissors is visible, a grasper is.": [
        "!tool hook",
        "!tool clipper",
        "!tool scissors",
        "tool grasper",
    ],
    "I don't see a hook or a clipper.": ["!tool hook", "!tool clipper"],
    "The hook and the clipper are not visible.": ["!tool hook", "!tool clipper"],
    "The frame contains neither a hook, a clipper nor scissors.": [
        "!tool hook",
        "!tool clipper",
        "!tool scissors",
    ],
    "The irrigator is absent.": ["!tool irrigator"],
    "The hook is not absent.": ["tool hook"],
    "The frame lacks a specimen bag.": ["!tool specimen bag"],
    "The bipolar is not visible, but the hook is at the top right.": [
        "!tool bipolar",
        "tool hook",
        "place hook right-top",
    ],
    "The suction irrigator has not yet been introduced.": ["!tool irrigator"],
    "Without an irrigator in view, the grasper retracts the liver.": [
        "!tool irrigator",
        "deed grasper retract liver",
    ],
    "Not only the hook but also the grasper is visible.": ["tool hook", "tool grasper"],
    "The cystic artery is not visible.": ["!tissue cystic artery"],
    "The cystic duct is hidden by fat.": ["!tissue cystic duct"],
    "I see the gallbladder but not the cystic plate.": ["tissue gallbladder", "!tissue cystic plate"],
    "No cystic duct can be identified.": ["!tissue cystic duct"],
    "No named structure stands out.": ["!tissue any"],
    # Deeds.
    "The grasper is holding the gallbladder.": ["deed grasper grasp gallbladder"],
    "The gallbladder is being grasped by the grasper.": ["deed grasper grasp gallbladder"],
    "The gallbladder is held with grasping forceps.": ["deed grasper grasp gallbladder"],
    "The gallbladder is retracted by the grasper and grasped by the bipolar.": [
        "deed grasper retract gallbladder",
        "deed bipolar grasp gallbladder",
    ],
    "The electric hook is dissecting the cystic duct.": ["deed hook dissect cystic duct"],
    "Dissection of the cystic duct with the hook continues.": ["deed hook dissect cystic duct"],
    "The hook is used to dissect the cystic artery.": ["deed hook dissect cystic artery"],
    "Using the hook rather than the scissors, the surgeon dissects the gallbladder.": [
        "tool hook",
        "!tool scissors",
        "deed hook dissect gallbladder",
    ],
    "The scissors transect the cystic artery.": ["deed scissors cut cystic artery"],
    "The clip applier places a clip on the cystic duct.": ["deed clipper clip cystic duct"],
    "The clipper clips the duct.": ["deed clipper clip cystic duct"],
    "The grasper lifts the liver while the hook cauterizes the liver bed.": [
        "deed grasper retract liver",
        "deed hook coagulate cystic plate",
    ],
    "The hook and the grasper dissect the gallbladder.": [
        "deed hook dissect gallbladder",
        "deed grasper dissect gallbladder",
    ],
    "The hook dissects the cystic duct and the cystic artery.": [
        "deed hook dissect cystic duct",
        "deed hook dissect cystic artery",
    ],
    "The irrigator suctions fluid and washes the liver.": [
        "deed irrigator aspirate fluid",
        "deed irrigator irrigate liver",
    ],
    "One grasper retracts the liver and another grasps the gallbladder.": [
        "deed grasper retract liver",
        "deed grasper grasp gallbladder",
    ],
    "The grasper, located at the top left, retracts the gallbladder upwards.": [
        "tool grasper",
        "place grasper left-top",
        "deed grasper retract gallbladder",
    ],
    "The gallbladder is retracted, exposing the cystic duct.": [
        "deed - retract gallbladder",
        "tissue cystic duct",
    ],
    "The grasper does not retract the liver.": ["!deed grasper retract liver"],
    "The bipolar coagulates the cystic plate, not the liver.": [
        "deed bipolar coagulate cystic plate",
        "!deed bipolar coagulate liver",
    ],
    "No grasper is holding the gallbladder.": ["!deed grasper grasp gallbladder"],
    "The hook dissects the gallbladder without touching the liver.": [
        "deed hook dissect gallbladder",
        "!deed hook touch liver",
    ],
    "The hook is not touching anything.": ["idle hook"],
    "The grasper rests, the bipolar is idle.": ["idle grasper", "idle bipolar"],
    "The hook isn't idle.": ["!idle hook"],
    "No instrument touches tissue.": ["!deed any acts"],
    # Numbers.
    "Two graspers and one hook are in view.": [
        "count grasper 2",
        "tool grasper",
        "count hook 1",
        "tool hook",
    ],
    "There are two instruments.": ["count instrument 2"],
    "Three tools in total.": ["count instrument 3"],
    "That makes 2.": ["count instrument 2"],
    # Phases.
    "This frame shows gallbladder dissection.": ["phase gallbladder dissection"],
    "The current phase is therefore Calot's triangle dissection.": ["phase calot triangle dissection"],
    "This is consistent with the clipping and cutting phase.": ["phase clipping and cutting"],
    "This is gallbladder dissection rather than preparation.": [
        "phase gallbladder dissection",
        "!phase preparation",
    ],
    "The operation has not yet reached gallbladder packaging.": ["!phase gallbladder packaging"],
    # Criteria.
    "The first criterion is fulfilled, the second criterion is not.": ["criterion C1", "!criterion C2"],
    "Met: two structures, cystic plate.": ["criterion C1", "criterion C3"],
    "Not met: hepatocystic triangle, cystic plate.": ["!criterion C2", "!criterion C3"],
    "Two of the three criteria are met.": ["count criteria 2"],
    "The critical view of safety is not achieved.": ["!criterion all"],
    "None of the criteria is met.": ["!criterion any"],
    "All three criteria are met.": ["criterion all"],
    # Findings.
    "Clips are visible on the cystic duct.": ["cue clips set"],
    "There are no clips on the duct.": ["!cue clips set"],
    "No clips have been placed.": ["!cue clips set"],
    "The artery has not been cut.": ["!cue artery cut"],
    "A clear window is seen beside the duct.": ["cue clear window"],
    "The hepatocystic triangle is not cleared.": ["!cue clear window"],
    "The triangle is still filled with fat.": ["cue fat in the triangle"],
    "Fat no longer covers the neck.": ["!cue fat at the neck"],
    "Two tubular structures enter the gallbladder.": ["cue tubes apart"],
    "The tubes cannot be seen apart.": ["!cue tubes apart"],
    "The liver bed is not bare.": ["!cue bare bed"],
    "The specimen bag is open and the gallbladder is gone.": ["cue open bag", "cue gallbladder gone"],
    "There is some smoke and bleeding.": ["cue smoke", "cue blood"],
    # Not read, and not guessed.
    "The surgeon is careful.": ["unread"],
    "It might be a hook.": ["unread"],
    "The hook is not bent.": ["unread"],
    "The gallbladder has been dissected.": ["unread"],
    "After preparation, the surgeon continues.": ["unread", "unread"],
    "The gallbladder is retracted to expose the hepatocystic triangle.": [
        "deed - retract gallbladder",
        "unread",
    ],
    "This maneuver is consistent with the Preparation phase, where the liver is retracted.": [
        "phase preparation",
        "deed - retract liver",
    ],
    "The retraction of the gallbladder aligns with the critical view of safety.": [
        "deed - retract gallbladder"
    ],
    "I see.": [],
}
PROSTATECTOMY_SENTENCES = {
    "The needle driver is holding the needle.": ["cue needle held"],
    "The needle has not entered the tissue.": ["!cue needle in tissue"],
    "The needle tip has not come out.": ["!cue tip out"],
    "No needle is visible.": ["!cue needle seen"],
    "The suture has been cut.": ["cue thread cut"],
    "Loops of suture are wound between the instruments.": ["cue thread wound into loops"],
    "The surgeon is tying a knot.": ["action tying a knot"],
    "This fits pushing the needle through the tissue.": ["action pushing the needle through the tissue"],
    "This is other.": ["action other"],
    "The other grasper holds tissue.": ["unread"],
    "A grasper is at the left and the needle driver at the right.": [
        "tool grasper",
        "place grasper left",
        "tool needle driver",
        "place needle driver right",
    ],
}
BYPASS_SENTENCES = {
    "The linear stapler closes on the stomach.": ["cue stapler on the stomach"],
    "No drain is in view.": ["!cue drain in the field"],
    "The phase is jejunal separation, the step jejunal section.": [
        "phase jejunal separation",
        "step jejunal section",
    ],
    "The step is adhesiolysis.": ["step adhesiolysis"],
    "The phase is closure of the Petersen space.": ["phase closure petersen space"],
    "The vessel sealer is at the top right.": ["tool energy device", "place energy device right-top"],
    "The bowel is visible.": ["tissue jejunum"],
    "The clip applier is visible.": ["tool clipper"],
}
TABLE = [
    (procedure, text, expected)
    for procedure, table in (
        (CHOLECYSTECTOMY, CHOLECYSTECTOMY_SENTENCES),
        (PROSTATECTOMY, PROSTATECTOMY_SENTENCES),
        (BYPASS, BYPASS_SENTENCES),
    )
    for text, expected in table.items()
]


@pytest.mark.parametrize(("procedure", "text", "expected"), TABLE, ids=[t for _, t, _ in TABLE])
def test_a_sentence_is_read_as_written_down_by_hand(procedure, text, expected) -> None:
    assert short_all(text, procedure) == expected
    assert short_all(text.upper().replace(".", "!"), procedure) == expected
    # Neighbours in other sentences change nothing.
    around = short_all(f"Something else. {text} Something else.", procedure)
    assert [s for s in around if s != "unread"] == [s for s in expected if s != "unread"]


def test_the_table_is_large_and_holds_every_kind() -> None:
    kinds = Counter(e.lstrip("!").split()[0] for _, _, expected in TABLE for e in expected)
    assert len(TABLE) >= 60
    wanted = "tool tissue place deed idle count phase step action criterion cue unread"
    assert set(kinds) == set(wanted.split())


SPOKEN = [
    (procedure, sentence)
    for procedure in procedure_names()
    for sentence in (
        *(c for a in load_procedure(procedure).phases for c in (*a.cues, a.definition)),
        *(c for a in load_procedure(procedure).actions for c in (*a.cues, a.definition)),
        *(c for k in load_procedure(procedure).criteria for c in (*k.met, *k.unmet)),
    )
]


@pytest.mark.parametrize(("procedure", "sentence"), SPOKEN)
def test_every_sentence_of_the_ontology_is_read_whole(procedure, sentence) -> None:
    found = short_all(sentence, procedure)
    assert found and "unread" not in found


def test_a_definition_claims_its_phase_and_unmet_sentences_deny() -> None:
    assert short_all("The stomach is stapled into a small pouch.", BYPASS) == ["phase gastric pouch creation"]
    criteria = load_procedure(CHOLECYSTECTOMY).criteria
    for criterion in criteria:
        assert all(not s.startswith("!") for t in criterion.met for s in short_all(t, CHOLECYSTECTOMY))
    assert short_all(criteria[2].unmet[1], CHOLECYSTECTOMY) == ["!cue bare bed"]


DENIALS = {
    "no {}": "No {} is visible.",
    "not": "The {} is not visible.",
    "n't": "The {} isn't in view.",
    "without": "The picture is without a {}.",
    "neither": "Neither a {} nor anything is visible.",
    "absent": "The {} is absent.",
    "cannot": "I cannot see a {}.",
    "never": "The {} is never visible.",
    "missing": "The {} is missing.",
    "not yet": "The {} has not yet been introduced.",
    "no longer": "The {} is no longer visible.",
    "lacks": "The frame lacks a {}.",
}


@pytest.mark.parametrize("tool", ["grasper", "hook", "clipper"])
@pytest.mark.parametrize("wording", DENIALS.values(), ids=DENIALS.keys())
def test_every_denial_denies_exactly_its_tool(wording, tool) -> None:
    found = short_all(f"{wording.format(tool)} The liver is visible.", CHOLECYSTECTOMY)
    assert [s for s in found if s != "unread"] == [f"!tool {tool}", "tissue liver"]


def test_a_trace_is_read_level_by_level_and_the_answer_is_not() -> None:
    text = (
        "<think>Level 1: I see a hook. I see a hook.\nLevel 2: The hook dissects the cystic duct.\n"
        "Level 3: This is preparation.</think><answer>gallbladder dissection</answer>"
    )
    found = read(parse(text), load_procedure(CHOLECYSTECTOMY))
    assert [(s.level, short(s)) for s in found] == [
        (1, "tool hook"),
        (2, "deed hook dissect cystic duct"),
        (3, "phase preparation"),
    ]
    assert found[1].text == "the hook dissects the cystic duct"


def test_findings_have_distinct_names() -> None:
    names = [name for name, _ in FINDINGS]
    assert len(set(names)) == len(names)
    assert {"clips set", "drain in the field", "dye used"} <= set(names) & set(THINGS.values())


SENTENCE = (
    "no not neither nor without the a hook grasper gallbladder liver dissects retracted by at left-top idle"
    " two criterion met clips , . : and or is visible phase preparation"
)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.lists(st.sampled_from(SENTENCE.split()), max_size=14).map(" ".join))
)
def test_any_text_is_read_without_an_error(text) -> None:
    for procedure in procedure_names():
        for statement in read_text(text, 2, load_procedure(procedure)):
            assert statement.level == 2 and (statement.subject or statement.kind in ("deed", "other"))
