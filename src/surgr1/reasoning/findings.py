"""Named findings: what visual cues speak about (clips on the tubes, a taut thread, an open bag), and how they
are worded.

A pattern is plain words. A space also lets an article pass, ` ~ ` up to four words of the same clause, and
`( ... )?`, `(a|b)` mean what they mean in a regular expression. A negation inside or before the words negates
the finding ("its tip is not out"). Every cue and criterion sentence of the ontology is covered
(tests/reasoning/test_statements.py); the order matters, the first that fits is taken.
"""

import re
from functools import lru_cache

FINDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Cholecystectomy: before and during dissection.
    (
        "gallbladder untouched",
        ("gallbladder ~ (untouched|undissected|intact)", "(untouched|undissected) gallbladder"),
    ),
    (
        "fat at the neck",
        (
            "(yellow )?fat ~ (covers|covering|hides|hiding|buries|surrounds) ~ neck( of gallbladder)?",
            "neck( of gallbladder)? ~ (buried|hidden|covered|wrapped|concealed) ~ fat",
            "tubes ~ (buried|hidden|covered|concealed) ~ fat",
        ),
    ),
    (
        "neck being opened",
        (
            "tissue (at|around) neck ~ (opened|dissected)",
            "neck ~ being (opened|dissected)",
        ),
    ),
    ("triangle partly open", ("triangle ~ (partly|partially|half) (open|opened|cleared|dissected)",)),
    (
        "fat in the triangle",
        (
            "(yellow )?fat ~ (fills|filling|occupies|covers|covering|clogs) ~ triangle",
            "triangle ~ (full of|filled with|filled by|covered with|covered by|clogged with) ~ fat",
            "fat ~ (in|inside|within|left in) (hepatocystic |calots? )?triangle",
        ),
    ),
    (
        "triangle free of fat",
        ("(triangle ~ )?(free|clear|cleared|devoid) of ~ fat( and fibrous tissue)?", "fat free triangle"),
    ),
    (
        "clear window",
        (
            "(dark )?clear window( (lies|is) (beside|next to) (duct|neck))?( is seen beside neck)?",
            "dark window",
            "(hepatocystic |calots? )?triangle (is|has been) ~ (open|opened|cleared|clear|dissected)",
        ),
    ),
    (
        "tubes apart",
        (
            "thick duct and thin artery run separately( to neck)?",
            "two separate tubes( (reach|enter) gallbladder)?",
            "(duct and artery|tubes( at neck)?|two structures) ~ (seen apart|apart|separate|separately)",
            "(only )?two (tubular )?(structures|tubes) ~ (enter|entering|reach|reaching)( gallbladder)?",
            "(only )?two (tubular )?(structures|tubes) ~ (connect|connected) to gallbladder",
        ),
    ),
    ("tubes exposed", ("tubes ~ exposed( for clips and division)?", "exposed tubes")),
    ("duct cut", ("(cystic )?duct (has|is) ~ been (cut|divided|transected|severed)", "divided cystic duct")),
    (
        "artery cut",
        ("(cystic )?artery (has|is) ~ been (cut|divided|transected|severed)", "divided cystic artery"),
    ),
    (
        "clips being set",
        ("clips? (is|are) being (set|placed|applied|put)( on (tubes|(cystic )?(duct|artery)))?",),
    ),
    (
        "clips set",
        (
            "clips ~ (in place|set|placed|applied|visible|seen)( on (tubes|(cystic )?(duct|artery)))?",
            "clip (is|has been) ~ (set|placed|applied|visible|seen)",
            "clips? (on|across|at|sit on|lie on|sits on) (tubes?|duct|artery|cystic duct|cystic artery)",
            "(nothing|anything) (is|has been) clipped",
            "(has|have) ~ been clipped",
            "already clipped",
        ),
    ),
    # Cholecystectomy: the liver bed, the bag, the end.
    ("bed being washed", ("(raw |liver |empty )?bed ~ being (washed|rinsed|irrigated|cleaned)",)),
    ("bed empty", ("empty liver bed", "liver bed is empty")),
    (
        "bare bed",
        (
            "raw red strip of liver bed( shows under neck)?",
            "bare liver surface( (shows|is seen) under neck)?",
            "lower gallbladder stands off bare plate",
            "(raw|bare|exposed) (liver bed|bed|cystic plate|plate|liver surface)( shows)?",
            "(cystic plate|liver bed|plate) ~ (bare|exposed|uncovered)",
        ),
    ),
    ("gallbladder flat on the liver", ("gallbladder ~ (lies|lying|is|sits) flat( on liver)?",)),
    (
        "gallbladder coming off",
        (
            "gallbladder ~ (coming|peeled|peeling|lifted|separated|stripped) (off|from) liver( bed)?",
            "gallbladder ~ (partly|partially|half) (detached|freed)( from liver)?( bed)?",
            "hanging gallbladder",
            "gallbladder hangs( from)?",
        ),
    ),
    (
        "gallbladder free",
        (
            "(free|freed|detached) gallbladder",
            "gallbladder ~ (completely|fully|entirely|wholly) (free|freed|detached)( from liver)?( bed)?",
        ),
    ),
    ("gallbladder gone", ("gallbladder (is|has been) (gone|removed|taken away)",)),
    (
        "bag pulled out",
        ("(closed |filled )?(specimen )?bag ~ (pulled|drawn) (toward|to|up|out|through)( and out)?( wall)?",),
    ),
    ("open bag", ("open (specimen |retrieval )?bag", "(specimen |retrieval )?bag (is|lies|stands) ~ open")),
    (
        "closed bag",
        (
            "(closed|filled) (specimen |retrieval )?bag",
            "(specimen |retrieval )?bag (is|lies) ~ (closed|filled)",
            "bagged gallbladder",
        ),
    ),
    # Gastric bypass.
    (
        "organs untouched",
        ("liver, stomach and omentum ~ untouched", "(stomach|bowel|organs) ~ (untouched|intact)"),
    ),
    ("whole upper abdomen in view", ("(whole )?upper abdomen ~ (in view|visible|seen)",)),
    (
        "organ divided",
        ("(nothing|anything) (is |has been )?divided", "(stomach|organ) (is|has been) ~ divided"),
    ),
    (
        "stapler on the stomach",
        ("(linear )?stapler( jaws)? ~ (closes?|closing|closed) ~ stomach( wall)?",),
    ),
    (
        "stapler on the bowel",
        ("(linear )?stapler( jaws)? ~ (closes?|closing|closed) ~ (bowel|jejunum)( loop)?",),
    ),
    ("staple line across the stomach", ("staple line ~ (across|on|along) stomach",)),
    ("energy device on the omentum", ("energy device ~ (splits|splitting|divides|dividing) ~ omentum",)),
    ("omentum divided", ("(omentum|omental apron) ~ (divided|split)( down middle)?",)),
    (
        "pouch and loop opened",
        ("pouch and jejunal loop ~ (brought together|side by side)( and opened)?",),
    ),
    ("stomach and bowel joined", ("stomach and (bowel|jejunum) ~ joined",)),
    (
        "dye in the pouch",
        (
            "(blue )?dye (fills|in|inside|distends) (joined )?pouch",
            "(joined )?pouch ~ (filled with|full of|distended by) (blue )?dye",
        ),
    ),
    ("dye used", ("dye ~ (used|injected)( to look for leak)?",)),
    ("bowel divided", ("(bowel loop|bowel|jejunum) ~ divided( beside mesentery)?",)),
    (
        "gap under the mesentery being sewn",
        ("gap (under|behind) (raised )?mesentery ~ (sewn|sutured|closed)",),
    ),
    ("needle closing the space", ("needle (closes|closing) space( behind limb)?",)),
    (
        "loops side by side and opened",
        ("two (bowel loops|loops of bowel|loops) ~ side by side( and opened)?",),
    ),
    ("limbs joined", ("two limbs( of jejunum)? ~ joined",)),
    ("hole in the mesentery being sewn", ("(hole|defect) in ~ mesentery ~ (sewn|sutured|closed)",)),
    ("needle closing the slit", ("needle (closes|closing) slit( between mesenteric leaves)?",)),
    ("irrigator clearing the field", ("irrigator (clears|clearing) blood and fluid",)),
    ("fluid washed off", ("fluid ~ washed off( finished field)?",)),
    ("instruments leaving", ("instruments (leave|are leaving|are withdrawn)",)),
    ("retractor gone", ("retractor (is|has been) (gone|removed)",)),
    ("strands to the wall cut", ("strands( to abdominal wall)? ~ cut",)),
    ("work away from the organs", ("work ~ away from stomach and bowel",)),
    ("drain in the field", ("drain ~ (in field|stays|in place|visible|seen)",)),
    # Prostatectomy.
    ("needle handled", ("needle ~ handled", "needle ~ in use")),
    ("field only held or cleaned", ("field ~ only held or cleaned",)),
    (
        "needle carried away",
        (
            "needle ~ carried away( from wound)?( after stitch)?",
            "needle ~ held at edge of field",
        ),
    ),
    (
        "needle free",
        ("needle ~ (lies|lying|is|rests) ~ (free|loose)", "(loose|free) needle"),
    ),
    (
        "driver reaching for the needle",
        (
            "(needle )?driver ~ (reaches|reaching) for (it|needle)",
            "(open )?jaws (approach|reach for)",
        ),
    ),
    (
        "needle held",
        (
            "held needle( points at tissue)?",
            "(needle )?driver ~ (holds|holding|grips|gripping|carries) needle",
            "needle (is|stays) ~ (held|gripped)",
        ),
    ),
    ("tip at the tissue", ("(with )?tip at (edge|tissue|wound)( of tissue| of wound)?",)),
    (
        "tip out",
        (
            "(needle )?tip ~ (come out|out|beyond|emerged|emerges|exited)",
            "needle emerges( on far side)?",
        ),
    ),
    (
        "needle in tissue",
        (
            "part of needle ~ buried",
            "arc ~ disappears into tissue",
            "needle ~ (buried|inside tissue|in tissue|pierces tissue|enters tissue|entered tissue)",
            "(has|have) ~ entered (it|tissue)",
        ),
    ),
    ("thread taut", ("(thread|suture) ~ (under tension|taut|tight)", "taut (thread|suture)")),
    (
        "thread wound into loops",
        (
            "loops? of (thread|suture)( (are )?(wind|wound|laid))?( between (two )?instruments)?",
            "(thread|suture) ~ (wound|looped)( into throws)?( over wound)?",
        ),
    ),
    (
        "scissors on the thread",
        (
            "(open )?blades ~ (meet|close on|around) (thread|suture)",
            "scissors ~ (close on|meet) (thread|suture)",
        ),
    ),
    ("thread cut", ("(thread|suture) (is |has been )?(not )?(yet )?cut",)),
)
"""(finding, patterns). The finding's name is the subject of a statement of kind "cue"."""

THINGS = {
    "clips": "clips set",
    "clip": "clips set",
    "needle": "needle seen",
    "thread": "thread seen",
    "suture": "thread seen",
    "drain": "drain in the field",
    "smoke": "smoke",
    "plume": "smoke",
    "blood": "blood",
    "bleeding": "blood",
    "dye": "dye used",
}
"""Nouns that are a finding by being there, where no pattern fits."""

_SPACE = r" (?:(?:the|a|an|its|their|any) )?"
_GAP = r"(?: (?!(?:and|but|while|or|as)\b)[\w']+){0,4}?"


def finding_pattern() -> re.Pattern[str]:
    """All patterns as one; `match.lastindex - 1` counts them in the order of `finding_names`."""
    parts = []
    for _, patterns in FINDINGS:
        for pattern in patterns:
            # A gap brings its own leading space; the space after it lets an article pass like any other.
            pieces = pattern.replace("(", "(?:").split(" ~ ")
            parts.append(f"({(_GAP + _SPACE).join(p.replace(' ', _SPACE) for p in pieces)})")
    return re.compile(rf"(?:{'|'.join(parts)})\b")


@lru_cache
def first_words() -> frozenset[str]:
    """Every word that a pattern can begin with: where another word stands, no pattern needs to be tried."""
    return frozenset(w for _, patterns in FINDINGS for p in patterns for w in _firsts(p))


def _firsts(pattern: str) -> set[str]:
    """The first words of one pattern; of an optional group also what follows it."""
    if not pattern.startswith("("):
        word = re.split(r"[ (]", pattern, maxsplit=1)[0].rstrip(",")
        # "clips?": both forms.
        return {word[:-2], word[:-1]} if word.endswith("?") else {word}
    depth, parts, start = 0, [], 1
    for at, sign in enumerate(pattern):
        depth += (sign == "(") - (sign == ")")
        if (sign == "|" and depth == 1) or depth == 0:
            parts.append(pattern[start:at])
            start = at + 1
        if depth == 0:
            rest = pattern[at + 1 :]
            break
    found = {w for part in parts for w in _firsts(part)}
    return found | _firsts(rest[1:]) if rest.startswith("?") else found


def finding_names() -> tuple[str, ...]:
    """The finding of every pattern."""
    return tuple(name for name, patterns in FINDINGS for _ in patterns)
