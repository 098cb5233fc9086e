"""The words statements are read by: entities with aliases, inflected verbs, places, numbers, negators; and
the tokens of a cleaned sentence by longest match in them.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

from surgr1.ontology.procedures import Procedure, load_procedure, procedure_names
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.findings import THINGS, finding_names, finding_pattern, first_words

ANY = "any"
NULL = "null verb"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _list(phrases: str) -> list[str]:
    return [p.strip() for p in phrases.split(",")]


NEGATORS = _set(
    "no not without neither nor none never nothing nobody absent missing unmet lacks lacking lack fails"
    " hidden invisible unseen nowhere"
)
"""Words that negate. Two in one claim cancel ("is not absent"). "cannot" and "n't" are written out first."""
FORWARD = _set("no without neither nor none nothing lacks lacking lack")
"""These never reach back to an entity before them."""
BACKWARD = _set("absent missing hidden invisible unseen nowhere")
"""These deny what stands before them, if anything does."""
OPENING = _set("nor without")
"""These begin a clause of their own."""
SEPARATORS = _set(
    ", : and while whereas but or nor which where when then because since although so before after until once"
)
UNREAD = _set("to before after until once")
"""A clause behind one of these speaks of a purpose or another time, and is not read."""
AGENT = _set("by with using via")
LANDMARK = _set(
    "by near toward towards beside of under over behind around against from below above along on onto into to"
    " at in inside within between for beneath"
)
HEDGES = _set(
    "may might could possibly perhaps either if whether unclear uncertain maybe except besides other must"
    " needed required requires will usually commonly normally often typically resembles resembling own"
) | {"no more than", "not more than", "at least", "at most", "up to"}
COUNTERFACTUAL = _set("would unless")
"""One of these in a sentence: what it says is not so, or not said to be."""
ELSEWHEN = _set("earlier previously formerly beforehand had later ago")
"""One of these in a sentence: what is done, and with what, is not in this picture."""
COMPARED = _set("unlike than resembles like")
"""What stands after these is compared with, not claimed."""
TIMES = _set(
    "before after next previous previously until later following prior finished complete completed done over"
    " ready toward towards soon excluded ruled far past follow"
)
ARTICLES = _set("the a an its their any some")
MET = _set("met unmet fulfilled satisfied achieved")
HELD = re.compile(rf"\b(?:{'|'.join(sorted(MET))}|holds?)\b")
"""Without one of these a sentence may name a criterion but says nothing of it."""
STOP = ARTICLES | _set(
    "i we see seen can be is are was were in view visible this that it image frame picture shows show shown"
    " there here level of one on at appears appear present now also only as has have been being and with"
    " field scene together both yes"
)
"""Words that claim nothing by themselves."""
PRESENCE = STOP | _set(
    "introduced used inserted identified discernible detected found recognised recognized noticeable notice"
    " recognise recognize identify detect find make out do does did longer by anywhere still included"
    " observed observe distinguished apparent entire currently stands yet exposed enters"
)
"""What may stand beside a negated entity if the denial is that it is there: "no hook can be identified"."""
CLAIMS = re.compile(
    r"\b(?:phase|step|stage|action|gesture|this is|fits|consistent|suggests?|indicates?|so)\b"
)
"""Without one of these a single word ("preparation", "other") names no phase, step or action."""
CRITERIA_CONTEXT = re.compile(
    r"\b(?:criterion|criteria|c[123]|met|unmet|fulfilled|satisfied|achieved|critical view|all three hold)\b"
)
"""Only here "cystic plate" and "hepatocystic triangle" are criteria."""

_VERBS = {
    "grasp": "grasp grasps grasped grasping hold holds held holding grip grips gripped gripping",
    "retract": "retract retracts retracted retracting lift lifts lifted lifting pull pulls pulled pulling"
    " tent tents tenting tented tugs tugging",
    "dissect": "dissect dissects dissected dissecting frees freeing separates separating peels peeling",
    "coagulate": "coagulate coagulates coagulated coagulating cauterize cauterizes cauterized cauterizing"
    " cauterise cauterises cauterised cauterising burn burns burned burning seal seals sealed sealing",
    "clip": "clipping clipped",
    "cut": "cut cuts cutting divide divides divided dividing transect transects transected transecting"
    " sever severs severed severing",
    "aspirate": "aspirate aspirates aspirated aspirating suctions suctioned suctioning sucks sucked sucking",
    "irrigate": "irrigate irrigates irrigated irrigating wash washes washed washing rinse rinses rinsed"
    " rinsing flush flushes flushed flushing",
    "pack": "pack packs packed packing bagging",
    "touch": "touch touches touched touching contacts contacting",
    "staple": "staples stapled stapling",
    "suture": "sutured suturing sew sews sewn sewing stitches stitched stitching",
}
_VERB_PHRASES = {
    "retract": "holds back, held back, holding back, drawn upward, drawn upwards, drawn aside, drawn away,"
    " drawn back, draws up, draws back, draws aside, draws away, draws upward, drawing up, drawing back,"
    " drawing away, keeps under tension, puts on stretch, puts under tension, holds under tension, held under"
    " tension, holds on tension, kept under tension, under traction, holds aside, held aside, held upward",
    "aspirate": "draws off, drawn off, takes up, taken up, clears away",
    "touch": "works on, working on, works at, working at, worked on",
}
_TOOLS_AS_VERBS = frozenset({"clamps", "hooks"})
"""After another tool these are what it does."""
NOUN, CLAIM = "noun", "claim"
"""`Token.entity` of a verb's noun ("traction on"), whose doer may be elsewhere; of words that claim a
criterion without its name.
"""
_CRITERION_WORDS = {
    "C2": ("cleared for visibility", "cleared of fat and fibrous tissue"),
    "C3": ("lower gallbladder is detached", "detached from liver bed", "lower third is detached"),
}
_NOUNS_OF_VERBS = {
    "grasping": "grasp",
    "retraction": "retract",
    "traction": "retract",
    "dissection": "dissect",
    "coagulation": "coagulate",
    "cutting": "cut",
    "division": "cut",
    "clipping": "clip",
    "irrigation": "irrigate",
    "aspiration": "aspirate",
    "packing": "pack",
}
_IDLE = _list(
    "idle, touches nothing, touching nothing, does nothing, doing nothing, at rest, rests, resting, inactive,"
    "hovers, not acting, not in use, not in contact, not touching anything, not touching tissue, does not"
    " touch anything, does not touch tissue, does not act on tissue, does not act, without touching anything,"
    "without touching tissue, not working on anything, not engaged"
)
_NOBODY_ACTS = _list(
    "nothing acts on tissue, no instrument acts on tissue, no instrument acts, no tool acts on tissue, no"
    " instrument touches tissue, no instrument is acting on tissue, no tissue is being manipulated, nothing"
    " is being done, all instruments are idle, every instrument is idle"
)
_INSTRUMENT = _list(
    "instrument, instruments, tool, tools, surgical instrument, surgical instruments, surgical tool, surgical"
    " tools"
)
_STRUCTURE = _list("structure, structures, tissue, tissues, named structure, named structures")
_SHORT = {
    "laparoscopic cholecystectomy": {
        "forceps": "grasper",
        "duct": "cystic duct",
        "artery": "cystic artery",
        "bag": "specimen bag",
        "pedicle": "cystic pedicle",
        "abdominal wall": "abdominal wall cavity",
        "bile duct": "",
        "fat": "fat",
        "suction": "irrigator",
    },
    "robot-assisted radical prostatectomy": {"driver": "needle driver", "dvc": "dorsal venous complex"},
    "laparoscopic roux-en-y gastric bypass": {"driver": "needle driver", "suction": "irrigator"},
}
"""What a surgeon calls an entity when the operation leaves no doubt; "" blocks a misreading."""
STRANGERS = ("harmonic scalpel", "ultrasonic scalpel", "scalpel", "argon beam", "morcellator", "endoloop")
"""Tools of no procedure here that a model may believe to see."""
_DATASETS = (
    *("cholec80", "cholect50", "endoscapes", "cholectrack20", "cholec-instance-seg"),
    *("multibypass140", "sar-rarp50", "grasp", "psi-ava-vqa"),
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Token:
    """`type`: tool, tissue, verb, idle, nobody, phase, step, action, criterion, place, number, instrument,
    structure, finding, negator, separator, word. `negators`: how many a finding's words hold; `entity`: the
    first one they name.
    """

    type: str
    value: str
    negators: int = 0
    entity: str = ""


_LONGEST = 2000


@lru_cache(maxsize=64)
def sentences(text: str) -> tuple[str, ...]:
    """Cleaned sentences: lower case, contractions written out, hyphens as spaces, brackets as commas. Several
    checks read the same level one after the other.
    """
    return tuple(_sentences(text))


def _sentences(text: str) -> Iterator[str]:
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"n't\b", " not", text.replace("can't", "can not").replace("cannot", "can not"))
    text = text.replace("'s", "s").replace("'", "")
    text = re.sub(r"[*#_/\-‐-―]", " ", text)
    text = re.sub(r"[()\[\]]", ",", text)
    for part in re.split(r"[.!?;\n]+", text):
        clean = re.sub(r"\s+", " ", re.sub(r"[^\w\s,:]", " ", part))
        clean = re.sub(r" ?([,:])[ ,:]*", r"\1 ", clean).strip(" ,:")
        # Reading looks ahead and back within a sentence: one of book length would take for ever.
        yield from (clean[k : k + _LONGEST] for k in range(0, len(clean), _LONGEST))


def spell(text: str) -> str:
    """A name or phrase as it stands in a cleaned sentence."""
    return next(_sentences(text), "")


def _key(phrase: str) -> str:
    """A phrase without the articles inside it."""
    first, *rest = phrase.split(" ")
    return " ".join([first, *(w for w in rest if w not in ARTICLES)])


def _alternation(phrases: Iterable[str]) -> re.Pattern[str]:
    """The longest phrase wins; articles inside are let through (`_key` takes them out again)."""
    article = f" (?:(?:{'|'.join(sorted(ARTICLES))}) )?"
    # Phrases hold words and single spaces alone (`spell`), nothing to escape.
    ordered = (p.replace(" ", article) for p in sorted(phrases, key=lambda p: (-len(p), p)))
    return re.compile(rf"(?:{'|'.join(ordered)})\b")


class Lexicon:
    """Everything that is looked up while reading one procedure. `tools` are all procedures' tools,
    `definitions` cleaned definition -> (kind, name) of its phase or action.
    """

    def __init__(self, procedure: Procedure) -> None:
        others = [load_procedure(n) for n in procedure_names() if n != procedure.name]
        self.tools = frozenset((*STRANGERS, *(t.name for p in (procedure, *others) for t in p.tools)))
        self.definitions: dict[str, tuple[Literal["phase", "action"], str]] = {
            spell(a.definition): ("phase", a.name) for a in procedure.phases
        }
        self.definitions |= {spell(a.definition): ("action", a.name) for a in procedure.actions}
        self.has_criteria = bool(procedure.criteria)
        self._phrases: dict[str, Token] = {}
        self._labels: dict[str, Token] = {}
        # The first meaning stays: verbs, the procedure's own entities, those of the others.
        for verb, forms in _VERBS.items():
            self._add("verb", verb, forms.split())
        for verb, phrases in _VERB_PHRASES.items():
            self._add("verb", verb, _list(phrases))
        self._add_entities(procedure, others)
        self._add_activities(procedure)
        self._single = {
            p for p, t in self._phrases.items() if t.type in ("phase", "step", "action") and " " not in p
        }
        self._add_phrases()
        self._pattern = _alternation(self._phrases)
        self._label_pattern = _alternation(self._labels) if self._labels else None
        self._label_starts = {p.partition(" ")[0] for p in self._labels}
        self._criteria = _criteria(procedure)
        self._criteria_pattern = _alternation(self._criteria)
        self._looks = _looks(procedure)
        self._starts = {p.partition(" ")[0] for p in (*self._phrases, *self._criteria)}
        self._opening = self._starts | self._label_starts | first_words()

    def _add(self, type_: str, value: str, spellings: Iterable[str]) -> None:
        for spelling in spellings:
            self._phrases.setdefault(_key(spell(spelling)), Token(type_, value))

    def _add_entities(self, procedure: Procedure, others: list[Procedure]) -> None:
        """The own procedure's entities first: "bowel" is the gut here and the jejunum there. The others
        follow, because a model may name what is not there. A bag is handled like a tissue in a sentence.
        """

        def role(name: str) -> str:
            return "tool" if name in self.tools and name != "specimen bag" else "tissue"

        for spelling, name in _SHORT.get(procedure.name, {}).items():
            self._add(role(name) if name else "word", name, _plurals(spelling))
        for known in (procedure, *others):
            for entity in (*known.tools, *known.tissues):
                if known is procedure or entity.name != "fat":
                    self._add(
                        role(entity.name),
                        entity.name,
                        (
                            p
                            for s in (entity.name, *entity.aliases)
                            for p in _plurals(s)
                            # A needle is a finding here, whatever is a tool elsewhere.
                            if known is procedure or p not in THINGS
                        ),
                    )
        for stranger in STRANGERS:
            self._add("tool", stranger, _plurals(stranger))
        for dataset, kind in product(_DATASETS, ("tool", "target", "tissue")):
            # Aliases of what belongs here: GraSP's "curved scissors" are plain scissors elsewhere.
            aliases = vocabulary(dataset, kind).aliases if has_vocabulary(dataset, kind) else {}
            for alias, name in aliases.items():
                if procedure.entity(name):
                    self._add(role(name), name, _plurals(alias))

    def _add_activities(self, procedure: Procedure) -> None:
        own = {a.name for a in (*procedure.phases, *procedure.actions)}
        forms = {form for words in _VERBS.values() for form in words.split()}
        for kind, activities in (("phase", procedure.phases), ("action", procedure.actions)):
            for activity in activities:
                self._labels[_key(spell(activity.name))] = Token(kind, activity.name)
                # "idle" is a phase of GraSP, but "the grasper is idle" names none.
                if activity.name not in _IDLE:
                    self._add(kind, activity.name, (activity.name,))
        for dataset, kind in product(_DATASETS, ("phase", "action")):
            if has_vocabulary(dataset, kind) and own & set(vocabulary(dataset, kind).names):
                for alias, name in vocabulary(dataset, kind).aliases.items():
                    self._add(kind, name, (alias,))
                if has_vocabulary(dataset, "step"):
                    for name in vocabulary(dataset, "step").names:
                        self._labels.setdefault(_key(spell(name)), Token("step", name))
                        # "The scissors cut the bladder" does something, "cut bladder" is a step by name.
                        if name.partition(" ")[0] not in forms and name not in _IDLE:
                            self._add("step", name, (name,))
        calot = "calot triangle dissection"
        if calot in own:
            self._add("phase", calot, ("dissection of calots triangle", "hepatocystic triangle dissection"))

    def _add_phrases(self) -> None:
        for noun, verb in _NOUNS_OF_VERBS.items():
            for words in (f"{noun} of", f"{noun} on"):
                self._phrases.setdefault(words, Token("verb", verb, entity=NOUN))
        if self.has_criteria:
            for criterion, phrases in _CRITERION_WORDS.items():
                for words in phrases:
                    self._phrases.setdefault(_key(words), Token("criterion", criterion, entity=CLAIM))
        for lead, what in product(
            ("places", "placing", "applies", "applying", "set", "sets", "setting", "fires", "puts"),
            ("clip", "clips", "two clips"),
        ):
            self._add("verb", "clip", (f"{lead} {what} on", f"{lead} {what} to", f"{lead} {what} across"))
        self._add("idle", NULL, _IDLE)
        self._add("nobody", ANY, _NOBODY_ACTS)
        self._add("instrument", "instrument", _INSTRUMENT)
        self._add("structure", "structure", _STRUCTURE)
        for n, word in enumerate(_NUMBERS):
            self._add("number", str(n), (word, str(n)))
        self._add("number", "1", ("single",))
        for words, place in _places():
            self._add("place", place, (words,))
        for noun, finding in THINGS.items():
            self._add("finding", finding, (noun,))
        for negator in (*sorted(NEGATORS), "no longer", "rather than", "instead of"):
            self._add("negator", negator, (negator,))
        for words in ("not only", "no more than", "not more than", "at least", "at most", "up to"):
            self._add("word", words, (words,))
        self._add("negator", "nowhere", ("nowhere to be seen", "nowhere in view"))
        for separator in SEPARATORS - {",", ":"} - NEGATORS:
            self._add("separator", separator, (separator,))

    def tokens(self, sentence: str) -> tuple[Token, ...]:
        """Typed tokens of a cleaned sentence by longest match: criteria where it speaks of criteria,
        findings, phrases, words. How an entity looks ("with serrated jaws") is left out.
        """
        return _tokens(self, sentence)

    def read(self, sentence: str) -> Iterator[Token]:
        """`tokens`, without remembering them."""
        text = self._looks.sub("", sentence)
        claims = bool(CLAIMS.search(text))
        of_criteria = self.has_criteria and bool(CRITERIA_CONTEXT.search(text))
        at, before = 0, ""
        for piece in _PIECE.finditer(text):
            if piece.start() < at:
                # Part of a phrase that has been read.
                continue
            word = piece.group()
            if word in (",", ":"):
                token, at = Token("separator", word), piece.end()
            elif word not in self._opening or (before == "tool" and word in _TOOLS_AS_VERBS):
                token, at = _plain(word), piece.end()
            else:
                token, at = self._token(text, piece, claims, of_criteria)
            before = before if word in ARTICLES else token.type
            yield token

    def _token(self, text: str, word: "re.Match[str]", claims: bool, of_criteria: bool) -> tuple[Token, int]:
        """The token that starts with a word, and where it ends."""
        at, known = word.start(), word.group() in self._starts
        if match := self._named(text, at, word.group()):
            # A phase may be called after an organ: "the phase is dorsal venous complex".
            return self._labels[_key(match.group())], match.end()
        if known and of_criteria and (match := self._criteria_pattern.match(text, at)):
            return self._criteria[_key(match.group())], match.end()
        findings, names = _findings()
        if word.group() in first_words() and (match := findings.match(text, at)):
            words = match.group().split()
            at_words = (self._pattern.match(" ".join(words[k:])) for k in range(len(words)))
            named = (self._phrases[_key(m.group())] for m in at_words if m)
            entity = next((t.value for t in named if t.type in ("tool", "tissue")), "")
            negators = sum(w in NEGATORS - BACKWARD for w in words)
            return Token("finding", names[(match.lastindex or 1) - 1], negators, entity), match.end()
        if known and (match := self._pattern.match(text, at)):
            if match.group() in self._single and not claims:
                return _plain(match.group()), match.end()
            return self._phrases[_key(match.group())], match.end()
        return _plain(word.group()), word.end()

    def _named(self, text: str, at: int, word: str) -> "re.Match[str] | None":
        """The phase, step or action named at `at`, where the words before say that a name follows."""
        if word in self._label_starts and self._label_pattern and _NAMING.search(text[:at]):
            return self._label_pattern.match(text, at)
        return None


@lru_cache(maxsize=1024)
def _tokens(lexicon: Lexicon, sentence: str) -> tuple[Token, ...]:
    return tuple(lexicon.read(sentence))


@lru_cache(maxsize=8192)
def _plain(word: str) -> Token:
    return Token("word", word)


_PIECE = re.compile(r"[,:]|[^ ,:]+")
_NAMING = re.compile(
    r"\b(?:(?:phase|stage|step|action) is|this (?:is|fits)) (?:(?:clearly|probably|therefore|thus|now|again"
    r"|most likely) )*(?:the )?$"
)


@lru_cache
def lexicon(procedure: Procedure) -> Lexicon:
    """The lexicon of a procedure, built once."""
    return Lexicon(procedure)


@lru_cache
def _findings() -> tuple[re.Pattern[str], tuple[str, ...]]:
    return finding_pattern(), finding_names()


def _plurals(name: str) -> tuple[str, ...]:
    return (name,) if name.endswith("s") else (name, f"{name}s")


def _places() -> Iterator[tuple[str, str]]:
    """(words, place). Two sides make a quadrant; one side needs a preposition or "side", lest "the lower
    gallbladder" were a place.
    """
    sides = {"left": "left", "right": "right"}
    heights = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
    leads = ("on", "at", "to", "in", "near")
    for (a, x), (b, y) in product(sides.items(), heights.items()):
        for words in (f"{a} {b}", f"{b} {a}"):
            yield words, f"{x}-{y}"
            yield from ((f"{lead} {words}", f"{x}-{y}") for lead in leads)
    for word, place in (sides | heights).items():
        for noun in ("side", "half", "part", "edge"):
            yield f"{word} {noun}", place
            yield from ((f"{lead} {word} {noun}", place) for lead in leads)
        if word in ("left", "right", "top", "bottom"):
            yield from ((f"{lead} {word}", place) for lead in leads)
    for word, lead in product(("center", "centre", "middle"), leads):
        yield f"{lead} {word}", "centre"


def _criteria(procedure: Procedure) -> dict[str, Token]:
    found = {}
    for criterion, ordinal in zip(procedure.criteria, ("first", "second", "third"), strict=False):
        for spelling in (criterion.name, criterion.id.lower(), f"{ordinal} criterion"):
            found[spelling] = Token("criterion", criterion.id)
    for spelling in ("critical view of safety", "critical view", "cvs", "all three", "all criteria"):
        found[spelling] = Token("criterion", "all")
    for spelling in ("criterion", "criteria"):
        found[spelling] = Token("criterion", ANY)
    return found


def _looks(procedure: Procedure) -> re.Pattern[str]:
    """ "with two long fenestrated jaws", "is pear shaped": how the ontology says an entity looks."""
    looks = {
        spell(look)
        for e in (*procedure.tools, *procedure.tissues)
        for look in (e.shape, e.texture, e.color)
        # "The triangle is cleared" is a claim, no matter of looks.
        if look != "cleared"
    }
    words = "|".join(sorted(looks, key=lambda look: (-len(look), look)))
    return re.compile(rf"\b(?:with|has|have|is|are) (?:an? )?(?:{words})(?=$|,|:| (?:at|in|on|and)\b)")
