"""Every named check of a trace against wordings written by hand from its definition: good ones pass, bad ones
do not; and any text at all is checked, each check once, in linear time.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.faithfulness import check_trace
from surgr1.reasoning.prose import _LEAK, _MEASURE, check_prose
from surgr1.reasoning.support import Seen
from surgr1.reasoning.trace import parse
from surgr1.synthesis.validate import CHECKS

CHOLECYSTECTOMY = load_procedure("laparoscopic cholecystectomy")
PROSTATECTOMY = load_procedure("robot-assisted radical prostatectomy")
BOX = (100.0, 100.0, 300.0, 260.0)
GRASPER = LabelledBox("grasper", BOX)

PROSE: dict[str, dict[str, tuple[str, ...]]] = {
    "no_leak": {
        "good": (
            "The grasper gives good traction on the gallbladder.",
            "Given the taut wall, the gallbladder is under tension.",
            "The exposure provided by the grasper is good.",
            "The grasper provides counter-traction.",
            "Of the options, dissection fits best.",
            "So the answer follows from the plane at the liver bed.",
            "The target of the hook is the cystic duct.",
            "The saline solution runs over the liver bed.",
            "A well-known landmark, the cystic lymph node, lies beside the artery.",
            "As the question asks for tools, I look at the edges of the picture.",
            "The raw bed tells that the gallbladder was peeled off here.",
            "The result of the dissection is a clear window.",
            "A clip marks the duct.",
            "The view given by the camera is sharp.",
            "What is known of this stage is that clips come next.",
            "The hook is the only tool that I can name with certainty.",
            "The answer has to come from the tip of the tool.",
            "The duct stands out on the ground of dark red liver.",
        ),
        "bad": (
            "As the reference label indicates, a grasper is there.",
            "Since we already know that the correct answer is preparation, the grasper fits.",
            "The annotators marked this frame as preparation.",
            "According to the annotation, a grasper retracts the gallbladder.",
            "The provided answer says hook.",
            "Given that the expected answer is two, there must be a second tool.",
            "I was told that the hook is dissecting the duct.",
            "The ground-truth triplet confirms this.",
            "The hook fits the groundtruth.",
            "This matches the label given for the frame.",
            "The dataset lists the grasper as present.",
            "Because the solution states clipping, a clipper must be in view.",
            "The metadata says that this is clipping.",
            "Knowing the answer in advance, I look for a hook.",
            "The gold standard for this frame is preparation.",
            "The prompt tells me that the phase is preparation.",
            "The annotated box covers the upper left.",
            "Per the labels, only the grasper acts.",
            "The frame is labeled as preparation.",
            "The answer was given as hook.",
            "As the ground\ntruth says, a hook is there.",
        ),
    },
    "numbers_supported": {
        "good": (
            "Two tubes reach the neck and two jaws hold it.",
            "The first of the three criteria asks for two structures.",
            "The lower third of the gallbladder lies flat.",
            "There is a high degree of tension on the wall.",
            "Minute vessels run over the wall.",
            "The jaws close one after another.",
            "One half of the gallbladder is hidden by the liver.",
            "The grasper fills the region (100,100),(300,260).",
            "Its outline spans (96,104),(305,255).",
            "The jaws are seconded by a second tool from the right.",
            "Both tools come from the same side.",
            "C1 and C2 concern the neck.",
            "The strand is thin, a hair's breadth.",
            "The plane widens by degrees.",
        ),
        "bad": (
            "The tip is 5 mm from the duct.",
            "The tip is 5mm from the duct.",
            "The duct is about three centimetres long.",
            "The duct is 0.5 cm wide.",
            "The hook covers 20% of the picture.",
            "Roughly twenty per cent of the liver is visible.",
            "This is frame 1243 of the video.",
            "The tip has rested for 45 seconds.",
            "The shaft is angled at 30 degrees.",
            "The shaft stands at an angle of 45°.",
            "The jaws are at (612, 400).",
            "The tip is found at x = 320, y = 200.",
            "A 10-mm port is on the right.",
            "The pressure is 12 mmHg.",
            "The tip is at pixel 400.",
            "The jaws are 200 px wide.",
            "The grasper lies in [400, 300, 620, 470].",
            "About ten millilitres of blood lie on the liver.",
            "The clock shows 12:35.",
            "I am 90 percent sure of it.",
            "The pulse runs at sixty bpm.",
        ),
    },
    "language": {
        "good": (
            "Calot's triangle is covered by fat.",
            "Denonvilliers’ fascia – a whitish sheet – is opened.",
            "The Hem-o-lok clip sits en bloc on the pedicle, e.g. here.",
            "An L-shaped tip enters at the left-top (close to the liver).",
            "The grasper fills (100,100),(300,260).",
            "Clipping & cutting would need a clipper; none is in view.",
            "A Roux-en-Y limb lies beside Treitz's ligament.",
            "The surgeon's view is “clear”: nothing hides the neck.",
            "Hook, grasper, liver.",
            "A naïve look would miss the vein.",
            "Grasper and/or hook could be meant.",
            "Is there a clip? No, there is none!",
        ),
        "bad": (
            "Ein Greifer hält die Gallenblase und zieht sie nach oben.",
            "La pince saisit la vésicule biliaire et la tire vers le haut.",
            "La pinza sujeta la vesícula biliar y tira de ella hacia arriba.",
            "抓钳正在牵拉胆囊。",
            "The grasper 正在 holds the gallbladder.",
            "Захват удерживает желчный пузырь.",
            "The grаsper holds the gallbladder.",
            "The **grasper** holds the gallbladder.",
            "# Tools\nA grasper is visible.",
            "- a grasper is visible\n- a hook is visible",
            "1. A grasper is visible.\n2. A hook is visible.",
            "| tool | target |\n| grasper | liver |",
            "```python\nprint('grasper')\n```",
            "The tool is `grasper` here.",
            "The <b>grasper</b> is visible.",
            '{"tools": ["grasper", "hook"]}',
            "tools = ['grasper', 'hook']",
            "The grasper is visible, \\textbf{as seen}.",
            "See [the guide](https://example.org) for the looks.",
            "def find(image): return image.tools",
        ),
    },
    "not_repetitive": {
        "good": (
            "The grasper holds the gallbladder. The hook holds the duct.",
            "More and more of the plate shows, bit by bit and layer by layer.",
            "The hook touches it again and again.",
            "No clip is visible, no bag is visible, no blood is visible.",
            "The retracted gallbladder shows its neck, and the neck shows its tubes.",
            "A grasper is at the top. A second grasper is at the top.",
            "The tip lies far, far away from the bed.",
            "One tube runs to the left, one tube runs to the right.",
            "The grasper and the hook work together: the grasper pulls and the hook cuts.",
            "It is thin, it is red and it is smooth.",
            "The bed that had had fat on it is bare.",
            "Step by step the hook follows the wall, step by step the gap widens.",
        ),
        "bad": (
            "The grasper holds the gallbladder. The grasper holds the gallbladder.",
            "The grasper holds the gallbladder. The liver is seen. THE GRASPER HOLDS THE GALLBLADDER.",
            "The grasper holds the gallbladder! The grasper  holds the gallbladder.",
            "A hook is seen; it is idle. The liver shines. A hook is seen; it is idle.",
            "It retracts the liver and retracts the liver and retracts the liver and retracts the liver.",
            "The hook the hook the hook the hook the hook dissects.",
            "The wall is very very very very very very taut.",
            "It is held, it is held, it is held, it is held, it is held.",
            "The hook moves.\nThe duct is thin.\nThe hook moves.\nThe duct is thin.",
            "The tip is at the plate, the tip is at the plate, the tip is at the plate.",
            "The grasper, holding the gallbladder. The grasper holding the gallbladder.",
        ),
    },
}


def prose(levels: Mapping[int, str]) -> dict[str, bool]:
    return {f.check: f.ok for f in check_prose(levels, [BOX])}


@pytest.mark.parametrize(
    ("check", "verdict", "wording"),
    [(c, v, w) for c, table in PROSE.items() for v, words in table.items() for w in words],
)
def test_a_wording_passes_or_fails_its_check(check, verdict, wording) -> None:
    neutral = "Smooth tissue fills the picture from edge to edge."
    for levels in ({1: wording}, {1: f"{neutral} {wording}"}, {1: neutral, 2: wording}):
        if check == "language" and wording[0] in "#-1|{`" and levels != {1: wording}:
            continue
        assert prose(levels)[check] is (verdict == "good"), levels


def words(n: int) -> str:
    return " ".join(f"word{chr(97 + k % 26)}{chr(97 + k // 26)}" for k in range(n))


@pytest.mark.parametrize(
    ("lengths", "good"),
    [
        ((8,), True),
        ((7,), False),
        ((3, 5), True),
        ((2, 10), False),
        ((160,), True),
        ((161,), False),
        ((10, 2, 10), False),
        ((140, 140, 140), True),
        ((140, 140, 141), False),
        ((160, 160, 100), True),
        ((10, 161), False),
        ((0, 20), False),
        ((), False),
    ],
)
def test_length_is_judged_per_level_and_in_all(lengths, good) -> None:
    assert prose({k: words(n) for k, n in enumerate(lengths, start=1)})["length"] is good


# The frames of the tables below: (task, dataset, what is labelled, the levels around the wording, which level
# the wording is).
Frame = tuple[Task, str, dict[str, Any], dict[int, str]]
HOOK_AND_GRASPER: dict[str, Any] = {
    "tools": ("grasper", "hook"),
    "triplets": (("grasper", "retract", "gallbladder"), ("hook", "dissect", "cystic duct")),
    "phase": "calot triangle dissection",
}
SEEN_BOTH = "A grasper and a hook are in view, beside them the gallbladder and the cystic duct."
ACTING = "The grasper retracts the gallbladder and the hook dissects the cystic duct."
TRIPLETS = Task.TRIPLET_EXTRACTION
PHASES = Task.PHASE_RECOGNITION
CVS: dict[str, Any] = {"cvs": (True, False, False), "tissues": ("gallbladder", "cystic duct")}

CONTENT: dict[str, tuple[Frame, dict[str, tuple[str, ...]]]] = {
    "observes_first": (
        (PHASES, "cholec80", {"tools": ("hook",), "phase": "gallbladder dissection"}, {}),
        {
            "good": (
                "A hook works in the plane between gallbladder and liver.",
                "The view shows the liver, dark red, and the gallbladder above it.",
                "To determine the phase, I first look at the tools.",
                "An answer needs a look at the tools first.",
                "A hook enters from the right in preparation for the next stroke.",
                "The gallbladder hangs from its bed.",
                "The question is which phase this is; a hook is at the bed.",
                "The tissue yields to the hook in a clean plane.",
                "Raw liver lies open, and a hook rests on it. This is gallbladder dissection.",
                "Looking first at the tools: one hook.",
            ),
            "bad": (
                "This is the gallbladder dissection phase.",
                "The phase is gallbladder dissection, as a hook is at the bed.",
                "The answer is gallbladder dissection.",
                "Final answer: gallbladder dissection.",
                "We are looking at gallbladder dissection here.",
                "Gallbladder dissection is under way.",
                "The surgeon is in the gallbladder dissection phase.",
                "I conclude that this is gallbladder dissection.",
                "The image shows gallbladder dissection.",
                "Clearly gallbladder dissection.",
                "The operation has reached the phase of gallbladder dissection.",
                "This frame belongs to the cleaning and coagulation phase.",
                "It must be gallbladder dissection, because the bed is raw.",
                "The correct choice is gallbladder dissection.",
            ),
        },
    ),
    "vocabulary": (
        (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {2: ACTING}),
        {
            "good": (
                f"{SEEN_BOTH} No stapler is in view.",
                f"{SEEN_BOTH} The omentum lies below.",
                f"{SEEN_BOTH} The bowel fills the background.",
                f"{SEEN_BOTH} A retrieval bag is not needed yet.",
                f"{SEEN_BOTH} A suction irrigator might follow.",
                f"{SEEN_BOTH} The hepatocystic triangle opens between them.",
                f"{SEEN_BOTH} The abdominal wall is out of focus.",
            ),
            "bad": (
                f"{SEEN_BOTH} A linear stapler lies across the duct.",
                f"{SEEN_BOTH} A needle driver comes from below.",
                f"{SEEN_BOTH} The prostate is seen behind them.",
                f"{SEEN_BOTH} The uterus is visible at the bottom.",
                f"{SEEN_BOTH} The bladder neck is exposed.",
                f"{SEEN_BOTH} The dorsal venous complex is seen at the top.",
                f"{SEEN_BOTH} The iliac vessel runs along the wall.",
            ),
        },
    ),
    "tools_supported": (
        (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {2: ACTING}),
        {
            "good": (
                SEEN_BOTH,
                f"{SEEN_BOTH} No clipper is visible.",
                f"{SEEN_BOTH} A clip applier possibly hides behind the liver.",
                f"{SEEN_BOTH} The bent tip belongs to a hook rather than to scissors.",
                f"{SEEN_BOTH} The scissors have not come in yet.",
                f"{SEEN_BOTH} Neither an irrigator nor a bipolar can be seen.",
                f"{SEEN_BOTH} A clipper will be needed next.",
                f"{SEEN_BOTH} The picture is free of a specimen bag.",
                f"{SEEN_BOTH} Whether an irrigator is present cannot be said.",
            ),
            "bad": (
                f"{SEEN_BOTH} A clipper is visible, too.",
                f"{SEEN_BOTH} Beside the hook, an irrigator reaches in.",
                f"{SEEN_BOTH} The scissors rest at the edge.",
                f"{SEEN_BOTH} Bipolar forceps close on the artery.",
                f"{SEEN_BOTH} There are also scissors.",
                f"{SEEN_BOTH} I can make out an irrigator below.",
                "A grasper is in view, but there is no hook; gallbladder and cystic duct are seen.",
                "The grasper is absent. A hook is at the cystic duct, below the gallbladder.",
                "Gallbladder and cystic duct are seen. No instruments are in the picture.",
            ),
        },
    ),
    "tissues_supported": (
        (
            Task.OVERALL_CVS_ASSESSMENT,
            "endoscapes",
            CVS,
            {2: "Two tubes stay covered.", 3: "The critical view of safety is not achieved."},
        ),
        {
            "good": (
                "The gallbladder and the cystic duct are seen.",
                "The gallbladder is in view, the cystic artery stays hidden.",
                "No cystic plate can be made out; the gallbladder covers it.",
                "The liver lies behind the gallbladder.",
                "A red line may be the cystic artery.",
                "The gallbladder is seen, but not the cystic artery.",
                "The hepatocystic triangle is not visible yet.",
            ),
            "bad": (
                "The gallbladder and the cystic artery are seen.",
                "A thin red tube, the cystic artery, is visible beside the duct.",
                "No cystic duct can be seen.",
                "The gallbladder is not visible.",
                "The cystic plate is visible below the gallbladder.",
                "I see the gallbladder, the cystic duct and the cystic artery.",
                "Neither the gallbladder nor the cystic plate can be seen.",
            ),
        },
    ),
    "deeds_supported": (
        (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {1: SEEN_BOTH}),
        {
            "good": (
                ACTING,
                "The cystic duct is being dissected with the hook while the grasper holds the gallbladder.",
                "With the hook the surgeon dissects the cystic duct.",
                "The grasper pulls the gallbladder upwards.",
                "The cystic duct will be clipped later.",
                "The hook does not touch the liver.",
                "The hook may soon coagulate the artery.",
                "Dissection of the cystic duct with the hook goes on.",
            ),
            "bad": (
                "The hook cuts the cystic duct.",
                "The grasper retracts the liver.",
                "The hook dissects the cystic artery.",
                "The gallbladder is coagulated by the hook.",
                "The grasper dissects the cystic duct.",
                "The grasper is idle.",
                "The hook does not dissect the cystic duct.",
                "The hook dissects the cystic duct and the cystic artery.",
                "The cystic duct is being clipped by the grasper.",
            ),
        },
    ),
    "activity_supported": (
        (PHASES, "cholec80", {"tools": ("hook",), "phase": "gallbladder dissection"}, {1: "A hook is seen."}),
        {
            "good": (
                "This is gallbladder dissection.",
                "The phase is gallbladder dissection and not cleaning and coagulation.",
                "This is not gallbladder packaging.",
                "Clipping and cutting is over, so this is gallbladder dissection.",
                "Cleaning and coagulation comes next.",
                "It fits gallbladder dissection rather than preparation.",
                "With a bag in view, this would be gallbladder packaging.",
            ),
            "bad": (
                "This is gallbladder packaging.",
                "The phase is cleaning and coagulation.",
                "This is preparation rather than gallbladder dissection.",
                "The operation is in the clipping and cutting phase.",
                "This is not gallbladder dissection.",
                "All this points to calot triangle dissection.",
                "The gallbladder is freed, which is typical of the gallbladder packaging phase.",
            ),
        },
    ),
    "criteria_supported": (
        (
            Task.OVERALL_CVS_ASSESSMENT,
            "endoscapes",
            CVS,
            {1: "The gallbladder and the cystic duct are seen.", 3: "So the view is incomplete."},
        ),
        {
            "good": (
                "Criterion C1 is met, C2 and C3 are not met.",
                "The critical view of safety is not achieved.",
                "One of the three criteria is met.",
                "The first criterion holds, but the second criterion does not.",
                "The criterion of the cystic plate is not fulfilled.",
                "The hepatocystic triangle criterion is unmet.",
                "Not all three criteria are met.",
            ),
            "bad": (
                "Criterion C2 is met.",
                "The critical view of safety is achieved.",
                "All three criteria are met.",
                "None of the criteria is met.",
                "The first criterion is not fulfilled.",
                "Two of the three criteria are met.",
                "C1 and C3 are both satisfied as criteria.",
            ),
        },
    ),
    "cues_supported": (
        (PHASES, "cholec80", {"tools": ("grasper",), "phase": "preparation"}, {1: "A grasper is seen."}),
        {
            "good": (
                "The gallbladder is untouched.",
                "Fat still covers the neck of the gallbladder.",
                "No raw liver bed shows.",
                "The bag is not open, there is none.",
                "The gallbladder has not been removed.",
                "If a filled bag were drawn out, it would be later.",
                "The light is good.",
            ),
            "bad": (
                "An open bag is ready for the gallbladder.",
                "A filled bag is drawn up and out.",
                "The gallbladder is gone.",
                "The raw bed is being washed.",
                "The closed bag is pulled toward the wall.",
                "The gallbladder is coming off the liver.",
                "The neck is no longer covered, tissue at the neck is being opened.",
            ),
        },
    ),
    "places_supported": (
        (
            Task.GRID_POSITION_RECOGNITION,
            "cholect50",
            {"tools": ("grasper",), "boxes": (LabelledBox("grasper", (20.0, 20.0, 200.0, 160.0)),)},
            {},
        ),
        {
            "good": (
                "The grasper is at the left-top.",
                "A grasper lies in the upper left quadrant.",
                "The grasper can be seen in the top half.",
                "The grasper is on the left side and not at the right-bottom.",
                "The grasper is near the top left corner.",
                "The grasper is in view.",
                "The gallbladder is at the right-bottom.",
            ),
            "bad": (
                "The grasper is at the right-top.",
                "The grasper lies in the lower left quadrant.",
                "The grasper is seen at the bottom right.",
                "The grasper is on the right side.",
                "The grasper is in the lower half.",
                "The grasper is not at the left-top.",
                "A grasper is visible at the bottom left corner.",
            ),
        },
    ),
}


CHAIN: dict[str, tuple[Frame, dict[str, tuple[str, ...]]]] = {
    "tools_grounded": (
        (Task.TOOL_RECOGNITION, "cholect50", {"tools": ("grasper", "hook")}, {}),
        {
            "good": (
                "A grasper and a hook are visible.",
                "From the left comes a grasper, from the right a hook.",
                "Hook and grasper share the field.",
                "I see grasping forceps and an electric hook.",
                "In view: a hook, a grasper.",
                "There is a hook. Above it a grasper is seen.",
                "The grasper holds the gallbladder, the hook dissects the cystic duct.",
            ),
            "bad": (
                "A grasper is visible.",
                "Two tools are in view.",
                "A hook is visible and no grasper.",
                "A grasper is visible, and it might be joined by a hook.",
                "Tools come from both sides, one with serrated jaws.",
                "A hook is visible, nothing else.",
                "A grasper and a clipper are visible.",
            ),
        },
    ),
    "relations_stated": (
        (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {1: SEEN_BOTH}),
        {
            "good": (
                ACTING,
                "The gallbladder is retracted by the grasper, the cystic duct dissected by the hook.",
                "The hook dissects the cystic duct. The grasper pulls the gallbladder aside.",
                "While the grasper lifts the gallbladder, the hook is dissecting the cystic duct.",
                "The grasper is used to retract the gallbladder, the hook to dissect the cystic duct.",
                "Dissection of the cystic duct with the hook goes on, the grasper retracts the gallbladder.",
            ),
            "bad": (
                "The grasper retracts the gallbladder.",
                "The hook dissects the cystic duct.",
                "The grasper retracts the gallbladder and the hook dissects the gallbladder.",
                "The grasper dissects the cystic duct and the hook retracts the gallbladder.",
                "Both tools work together.",
                "The grasper retracts the gallbladder and the hook does not dissect the cystic duct.",
                "The grasper retracts the gallbladder, and the hook will dissect the cystic duct.",
            ),
        },
    ),
    "level2_from_level1": (
        (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {1: SEEN_BOTH}),
        {
            "good": (
                ACTING,
                "The electric hook dissects the cystic duct.",
                "Grasping forceps retract the gallbladder.",
                "No clipper acts here.",
                "The hook dissects the duct.",
                "A clipper may follow.",
                "The duct is dissected by the hook.",
            ),
            "bad": (
                "The clipper clips the cystic duct.",
                "The hook dissects the cystic artery.",
                "The grasper retracts the liver.",
                "The gallbladder is coagulated by the bipolar.",
                "The hook dissects the cystic duct and the cystic plate.",
                "The irrigator washes the gallbladder.",
                "Scissors are visible.",
            ),
        },
    ),
    "level3_from_levels": (
        (
            PHASES,
            "cholect50",
            HOOK_AND_GRASPER,
            {1: SEEN_BOTH, 2: ACTING},
        ),
        {
            "good": (
                "This is calot triangle dissection.",
                "As the hook dissects the cystic duct, this is calot triangle dissection.",
                "No clipper is in view, so clipping has not begun.",
                "A clipper would point to clipping and cutting.",
                "The grasper and the hook work at the neck: calot triangle dissection.",
                "The gallbladder is retracted by the grasper, which fits calot triangle dissection.",
            ),
            "bad": (
                "The clipper clips the cystic duct, so this is clipping and cutting.",
                "The hook dissects the cystic plate: calot triangle dissection.",
                "Scissors are in view, which fits.",
                "The irrigator washes the liver, the phase is calot triangle dissection.",
                "The grasper retracts the omentum and this is calot triangle dissection.",
                "The hook coagulates the liver, so this is calot triangle dissection.",
            ),
        },
    ),
}


def findings(text: str, frame: Frame, instruments: int | None = None) -> dict[str, bool]:
    task, dataset, labels, _ = frame
    procedure = PROSTATECTOMY if dataset == "sar-rarp50" else CHOLECYSTECTOMY
    seen = Seen(Labels(**labels), dataset, procedure, 854, 480, instruments)
    found = check_trace(parse(text), task=task, seen=seen, boxes=[BOX], allowed=())
    assert max(Counter(f.check for f in found).values()) == 1
    return {f.check: f.ok for f in found}


def trace(levels: Mapping[int, str], answer: str = "x") -> str:
    blocks = "\n".join(f"Level {k}: {levels[k]}" for k in sorted(levels))
    return f"<think>{blocks}</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("check", "verdict", "wording"),
    [(c, v, w) for c, (_, ws) in (CONTENT | CHAIN).items() for v, words in ws.items() for w in words],
)
def test_a_claim_passes_or_fails_its_check(check, verdict, wording) -> None:
    frame = (CONTENT | CHAIN)[check][0]
    rest = frame[3]
    place = next(k for k in (1, 2, 3) if k not in rest)
    levels = {**rest, place: wording}
    answer = str(frame[2].get("phase", "none"))
    assert findings(trace(levels, answer), frame)[check] is (verdict == "good")


COUNTED = (
    Task.TOOL_COUNTING,
    "cholect50",
    {"tools": ("grasper", "hook")},
    {},
)


@pytest.mark.parametrize(
    ("wording", "good"),
    [
        ("A grasper and a hook are seen, two tools in all.", True),
        ("There are two instruments.", True),
        ("Two instruments are visible: one grasper, one hook.", True),
        ("Two tubes are held by two tools.", True),
        ("Of the three criteria none was asked for here.", True),
        ("That makes 2 instruments.", True),
        ("A grasper and a hook are seen, three tools in all.", False),
        ("There are three instruments.", False),
        ("There is only one instrument.", False),
        ("That makes 4.", False),
        ("One grasper, one hook and thus five tools in total.", False),
        ("Three instruments are visible: two graspers and one hook.", False),
    ],
)
def test_counts_agree_with_the_number_that_the_question_asked_for(wording, good) -> None:
    levels = {1: "A grasper and a hook are seen.", 2: "Both tools touch tissue.", 3: wording}
    assert findings(trace(levels), COUNTED, 2)["numbers_supported"] is good


FORMS = {
    "good": (
        trace({1: SEEN_BOTH, 2: ACTING}),
        trace({1: SEEN_BOTH, 2: ACTING}) + "\n  ",
        "<think>This is a Level 2 task of tools and tissue.\n"
        + trace({1: SEEN_BOTH, 2: ACTING}).removeprefix("<think>"),
        "\n" + trace({1: SEEN_BOTH, 2: ACTING}),
        trace({1: SEEN_BOTH, 2: ACTING}, "none"),
        trace({1: f"{SEEN_BOTH} I come back to it at level 2.", 2: ACTING}),
    ),
    "bad": (
        trace({1: SEEN_BOTH}),
        trace({1: SEEN_BOTH, 2: ACTING, 3: "So it is."}),
        trace({1: SEEN_BOTH, 3: ACTING}),
        trace({2: ACTING}),
        f"<think>Level 2: {ACTING}\nLevel 1: {SEEN_BOTH}</think><answer>x</answer>",
        trace({1: SEEN_BOTH, 2: ""}),
        trace({1: SEEN_BOTH, 2: ACTING}, ""),
        trace({1: SEEN_BOTH, 2: ACTING}) + " I am sure.",
        trace({1: SEEN_BOTH, 2: ACTING}) + "<answer>y</answer>",
        trace({1: SEEN_BOTH, 2: ACTING}).replace("</think>", ""),
        trace({1: SEEN_BOTH, 2: ACTING}).replace("<think>", ""),
        trace({1: SEEN_BOTH, 2: ACTING}).replace("</answer>", ""),
        trace({1: SEEN_BOTH, 2: ACTING}).partition("<answer>")[0],
        f"<think>{SEEN_BOTH}\nLevel 2: {ACTING}</think><answer>x</answer>",
        f"<think>Level 1: {SEEN_BOTH}\nLevel 2: {ACTING}\nLevel 2: {ACTING}</think><answer>x</answer>",
        SEEN_BOTH,
        "",
    ),
}


@pytest.mark.parametrize(("verdict", "text"), [(v, t) for v, texts in FORMS.items() for t in texts])
def test_the_form_of_a_level_two_trace(verdict, text) -> None:
    frame: Frame = (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {})
    assert findings(text, frame)["format"] is (verdict == "good")


def test_the_tables_hold_six_good_and_six_bad_wordings_of_every_check() -> None:
    """`answer` alone needs a whole sample: tests/synthesis/test_labelled.py."""
    tables = {**PROSE, **{c: table for c, (_, table) in (CONTENT | CHAIN).items()}, "format": FORMS}
    assert set(tables) == set(CHECKS) - {"answer", "length"}
    for check, table in tables.items():
        assert min(len(table["good"]), len(table["bad"])) >= 6, check


ALWAYS = {
    *("format", "observes_first", "vocabulary", "tools_supported", "tissues_supported", "deeds_supported"),
    *("activity_supported", "criteria_supported", "cues_supported", "places_supported"),
    *("numbers_supported", "no_leak", "not_repetitive", "length", "language"),
}


@pytest.mark.parametrize(
    ("task", "labels", "more"),
    [
        (Task.TOOL_RECOGNITION, {}, set()),
        (Task.TOOL_RECOGNITION, {"tools": ()}, {"tools_grounded"}),
        (Task.TOOL_LOCALIZATION, {"tools": ("hook",)}, set()),
        (Task.ACTION_RECOGNITION, {}, {"level2_from_level1"}),
        (TRIPLETS, {"tools": ("hook",)}, {"tools_grounded", "level2_from_level1"}),
        (TRIPLETS, HOOK_AND_GRASPER, {"tools_grounded", "relations_stated", "level2_from_level1"}),
        (PHASES, HOOK_AND_GRASPER, {"level2_from_level1", "level3_from_levels"}),
        (
            Task.TOOL_COUNTING,
            {"tools": ("hook",)},
            {"tools_grounded", "level2_from_level1", "level3_from_levels"},
        ),
    ],
)
def test_which_checks_apply_to_which_tasks_and_labels(task, labels, more) -> None:
    assert set(findings("", (task, "cholect50", labels, {}))) == ALWAYS | more


def test_a_finding_says_what_was_wrong() -> None:
    seen = Seen(Labels(**HOOK_AND_GRASPER), "cholect50", CHOLECYSTECTOMY, 854, 480)
    text = trace({1: f"{SEEN_BOTH} A clipper is visible.", 2: "The hook cuts the liver."})
    found = check_trace(parse(text), task=TRIPLETS, seen=seen, boxes=[], allowed=())
    wrong = {f.check: f.detail for f in found if not f.ok}
    assert "clipper" in wrong["tools_supported"] and "grasper, hook" in wrong["tools_supported"]
    assert "hook dissect cystic duct" in wrong["deeds_supported"]
    assert "liver" in wrong["level2_from_level1"]
    assert "grasper retract gallbladder" in wrong["relations_stated"]


PIECES = (
    "<think> </think> <answer> </answer> Level 1: Level 2: Level 3: grasper hook (1,2),(3,4) [5, 6]"
    " 12 mm no not the is dissects this preparation phase criterion C1 met , . : ; and two answer 5% é 中"
)
ANY_TEXT = st.one_of(
    st.text(max_size=120), st.lists(st.sampled_from(PIECES.split(" ")), max_size=20).map(" ".join)
)


@settings(max_examples=250, deadline=None)
@given(
    ANY_TEXT,
    st.sampled_from([TRIPLETS, PHASES, Task.TOOL_RECOGNITION, Task.OVERALL_CVS_ASSESSMENT]),
    st.sampled_from([{}, HOOK_AND_GRASPER, CVS, {"tools": (), "boxes": (GRASPER,), "step": "idle"}]),
    st.sampled_from(["cholect50", "endoscapes", "sar-rarp50"]),
)
def test_any_text_is_checked_and_each_check_comes_once(text, task, labels, dataset) -> None:
    found = findings(text, (task, dataset, labels, {}))
    assert set(found) >= ALWAYS and set(found) <= set(CHECKS)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from([1, 2, 3]), ANY_TEXT), st.booleans())
def test_any_wording_is_checked_in_itself(levels, boxes) -> None:
    found = check_prose(levels, [BOX] if boxes else [])
    assert Counter(f.check for f in found) == dict.fromkeys((*PROSE, "observes_first", "length"), 1)
    again = check_prose(dict(reversed(levels.items())), [BOX] if boxes else [])
    assert [(f.check, f.ok) for f in again] == [(f.check, f.ok) for f in found]


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT, st.sampled_from([w for w in PROSE["no_leak"]["bad"] if "answer" in w]))
def test_no_text_around_it_hides_a_leak(text, leak) -> None:
    assert not prose({1: f"{text}\n{leak}\n{text}"})["no_leak"]


PRINTED = st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=".!?")


@settings(max_examples=200, deadline=None)
@given(st.from_regex(_LEAK, alphabet=PRINTED), st.from_regex(_MEASURE, alphabet=PRINTED))
def test_the_quick_look_for_telltale_words_passes_nothing_that_a_pattern_finds(leak, measure) -> None:
    assert not prose({1: leak})["no_leak"]
    assert not prose({1: measure})["numbers_supported"]


# 200 kB each: what is quadratic in the length takes many minutes.
LONG = {
    "one word": "a" * 200_000,
    "half points": "(1," * 60_000,
    "half boxes": "(1,1)" + " " * 200_000 + "x",
    "a long list": "(" + "-1.1, " * 35_000,
    "brackets": "[" * 200_000,
    "digits": "1" * 200_000,
    "decimals": "1.1," * 50_000,
    "a number and blanks": "five" + " " * 200_000 + "x mm",
    "a number and hyphens": "5" + "-" * 200_000 + " x cm",
    "a frame and blanks": "frame" + " " * 200_000 + "x 5",
    "a clock": "t 1" + ":" * 200_000 + "x",
    "blanks": " " * 200_000,
    "lines": "\n" * 200_000 + "x",
    "lines and tabs": "\n\t" * 100_000 + "x",
    "points": "." * 200_000,
    "points and blanks": ". " * 100_000,
    "articles": "the " * 50_000,
    "negations": "no " * 66_000,
    "answers": "the answer " * 18_000,
    "half leaks": "the answer of the a b " * 9_000,
    "knowledge": "we know " * 25_000,
    "hyphens": "a-" * 100_000,
    "apostrophes": "a'" * 100_000,
    "stars": "*" * 200_000,
    "entities": "&a" * 100_000,
    "assignments": "= " * 100_000,
    "definitions": "def " + "a" * 200_000,
    "other script": "中" * 100_000,
    "distinct words": " ".join(f"w{'ab'[k % 2]}{k:x}" for k in range(25_000)),
}


@pytest.mark.parametrize("name", LONG)
def test_the_wording_of_200_kb_is_checked_in_linear_time(name) -> None:
    text = LONG[name]
    assert not prose({1: text})["length"]
    twice = prose({1: f"{text}\nThe hook is at the duct.", 2: f"{text}\nThe hook is at the duct."})
    assert not twice["not_repetitive"]


MANY = {
    "articles": "the " * 50_000,
    "negations": "no " * 60_000,
    "sentences": "The hook dissects the cystic duct. " * 5_000,
    "deeds": "the hook dissects the cystic duct and " * 5_000,
    "places": "at the left " * 16_000,
    "one word": "a" * 200_000,
    "half points": "(1," * 50_000,
    "criteria": "criterion met " * 14_000,
    "headings": "Level 1: " * 22_000,
    "tags": "<think><answer></think>" * 8_000,
}


@pytest.mark.parametrize("name", MANY)
def test_a_trace_of_200_kb_is_checked_in_linear_time(name) -> None:
    frame: Frame = (TRIPLETS, "cholect50", HOOK_AND_GRASPER, {})
    assert not findings(f"<think>Level 1: {MANY[name]}</think><answer>x</answer>", frame)["length"]
