"""A reasoning trace taken apart into statements that can be checked one by one, and the one reading of
negation.

Text is read clause by clause. A clause becomes typed tokens (entities with aliases, inflected verbs, places,
numbers, findings, negators) by longest match in tables; a small grammar turns the tokens of a clause into
statements. A clause with words but without a statement is kept as kind "other": unread, never guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product, takewhile
from typing import Literal

from surgr1.ontology.procedures import Procedure
from surgr1.reasoning.lexicon import (
    AGENT,
    ANY,
    ARTICLES,
    BACKWARD,
    CLAIM,
    COMPARED,
    COUNTERFACTUAL,
    ELSEWHEN,
    FORWARD,
    HEDGES,
    HELD,
    LANDMARK,
    MET,
    NOUN,
    NULL,
    OPENING,
    PRESENCE,
    STOP,
    TIMES,
    UNREAD,
    Token,
    lexicon,
    sentences,
)
from surgr1.reasoning.trace import ParsedTrace

Kind = Literal[
    "tool", "tissue", "place", "deed", "count", "phase", "step", "action", "criterion", "cue", "other"
]
KINDS: tuple[Kind, ...] = (
    "tool",
    "tissue",
    "place",
    "deed",
    "count",
    "phase",
    "step",
    "action",
    "criterion",
    "cue",
)
"""Every kind that can be checked; "other" is what was not read."""
_ITEMS = frozenset(
    [
        *("tool", "tissue", "instrument", "structure", "place", "criterion"),
        *("phase", "step", "action", "finding", "verb", "idle"),
    ]
)
"""Types of tokens that a negator can deny."""
PURPOSE = "to"
"""The separator before a clause of purpose."""


@dataclass(frozen=True)
class Statement:
    """One claim, in canonical names. `text` is the clause it was read from; `negated` denies the whole claim.

    kind       subject                        predicate          object
    tool       tool or "any"                  "seen"
    tissue     tissue or "any"                "seen"
    place      tool, tissue or "any"          "at"               "left-top", "left", "top", ..., "centre"
    deed       tool, "" unnamed, "any"        verb, "null verb"  target, "" unnamed
    count      tool, "instrument", "criteria" "number"           "2"
    phase, step, action                       "is"
               name
    criterion  "C1".."C3", "all", "any"       "met"
    cue        a finding of findings.py       "shows"
    other                                     why it was not read
    """

    kind: Kind
    level: int
    subject: str = ""
    predicate: str = ""
    object: str = ""
    negated: bool = False
    text: str = ""


def read(parsed: ParsedTrace, procedure: Procedure) -> list[Statement]:
    """The statements of a trace's levels in order, each distinct one once per level."""
    return [s for level in sorted(parsed.levels) for s in read_text(parsed.levels[level], level, procedure)]


def read_text(text: str, level: int, procedure: Procedure) -> list[Statement]:
    """The statements of one level's text. Total: any string gives a list."""
    return list(_read_text(text, level, procedure))


@lru_cache(maxsize=64)
def _read_text(text: str, level: int, procedure: Procedure) -> tuple[Statement, ...]:
    """Several checks read the same level one after the other."""
    found: dict[Statement, Statement] = {}
    for sentence in sentences(text):
        for statement in _read_sentence(sentence, level, procedure):
            key = statement if statement.kind == "other" else replace(statement, text="")
            found.setdefault(key, statement)
    return tuple(found.values())


@lru_cache(maxsize=4096)
def _read_sentence(text: str, level: int, procedure: Procedure) -> tuple[Statement, ...]:
    """A trace is read by several checks, and many traces share sentences."""
    return tuple(_Sentence(text, level, procedure).read())


class _Sentence:
    """Reads one cleaned sentence: tokens, clauses, then the statements of each clause with what it inherits
    from the clause before.
    """

    def __init__(self, text: str, level: int, procedure: Procedure) -> None:
        self.lexicon = lexicon(procedure)
        self.text, self.level = text, level
        self.found: list[Statement] = []
        self.agents: tuple[str, ...] = ()
        self.verb = self.target = self.place = ""
        self.last = self.present = ""
        self.denied = False
        self.acted = False
        self.elsewhen = False

    def read(self) -> list[Statement]:
        defined = self.lexicon.definitions.get(self.text)
        if defined:
            # Verbatim knowledge about an activity: a claim that this is it.
            self._emit(defined[0], defined[1], "is")
            return self.found
        words = set(self.text.replace(",", " ").split())
        if words & COUNTERFACTUAL:
            self._emit("other", "", "unread", self.text)
            return self.found
        clauses = _clauses(self.lexicon.tokens(self.text))
        self.elsewhen = any(
            t.value in ELSEWHEN for separator, c in clauses if separator not in UNREAD for t in c
        )
        unread = False
        for index, (separator, clause) in enumerate(clauses):
            # "Before the duct and the artery are divided" is one clause of time.
            joined = separator in ("and", "or", "nor") and f", {separator} " not in self.text
            unread = separator in UNREAD or (unread and joined)
            if separator == "which":
                named = [t.value for t in clauses[index - 1][1] if t.type in ("tool", "tissue")]
                self.last = named[-1] if named else self.last
            self._clause(index, separator, clause, clauses, unread)
        if self.place:
            self._emit("other", "", "unread", f"at {self.place}")
        return self.found

    def _emit(
        self, kind: Kind, subject: str, predicate: str, object_: str = "", negated: bool = False
    ) -> None:
        self.found.append(Statement(kind, self.level, subject, predicate, object_, negated, self.text))

    def _clause(
        self,
        index: int,
        separator: str,
        clause: list[Token],
        clauses: list[tuple[str, list[Token]]],
        unread: bool,
    ) -> None:
        before = len(self.found)
        words = {t.value for t in clause if t.type == "word"}
        negation = _scopes(clause)
        denied = self._carried(index, separator, clauses, negation)
        understood = False
        if words & HEDGES or unread:
            pass
        elif any(t.type == "nobody" for t in clause):
            self._emit("deed", ANY, "acts", negated=True)
        elif self._criteria(clause, denied) or self._total(clause):
            understood = True
        else:
            understood = self._contents(index, clause, clauses, negation, denied, words)
        content = any(t.type != "negator" and t.value not in STOP for t in clause)
        if content and not understood and len(self.found) == before:
            self._emit("other", "", "unread", " ".join(t.value for t in clause))

    def _contents(
        self,
        index: int,
        clause: list[Token],
        clauses: list[tuple[str, list[Token]]],
        negation: dict[int, bool],
        denied: bool,
        words: set[str],
    ) -> bool:
        """Activities, findings, deeds, entities. True if the clause is understood although it states
        nothing by itself (the first half of a joint subject).
        """
        for k, token in enumerate(clause):
            if token.type in ("phase", "step", "action") and not words & TIMES:
                self._emit(token.type, token.value, "is", negated=negation[k] != denied)  # type: ignore[arg-type]
            elif token.type == "finding" and not _noun_of_verb(clause, k):
                odd = (negation[k] + token.negators + denied) % 2 == 1
                self._emit("cue", token.value, "shows", negated=odd)
                self.denied = self.denied or odd
                self.last = token.entity or self.last
        if self.elsewhen:
            return False
        verbs = [k for k, t in enumerate(clause) if t.type in ("verb", "idle") or _noun_of_verb(clause, k)]
        if verbs:
            return self._deeds(clause, verbs, clauses[index][0])
        if self._joint(index, clauses):
            self.agents = (*self.agents, *(t.value for t in clause if t.type == "tool"))
            return True
        if self.acted and self._more_targets(clauses[index][0], clause):
            return True
        self._presence(clause, negation, denied, _rest_of_list(index, clauses))
        return bool(self.place)

    def _carried(
        self,
        index: int,
        separator: str,
        clauses: list[tuple[str, list[Token]]],
        negation: dict[int, bool],
    ) -> bool:
        """Whether a list carries its negation into this clause: "no hook, clipper or scissors", "neither ...
        nor", "the hook and the clipper are not visible", "not met: ...".
        """
        clause = clauses[index][1]
        own = any(t.type == "negator" for t in clause)
        carried = False
        if clause and all(t.type == "word" for t in clause[own:]) and len(clause) <= 3:
            # "no shaft, jaw or bag": names that are not read carry the list on.
            if clause[0].value in ("no", "neither"):
                self.denied = True
                return False
            if not own and self.denied and separator in (",", "or", "nor"):
                return False
        if index and not own and self.denied and _element(clause):
            run = list(takewhile(lambda c: _element(c[1]), clauses[index:]))
            listed = any(s in ("or", "nor") for s, _ in run)
            article = bool(clause) and clause[0].value in ARTICLES
            carried = listed or separator == ":" or not article
        items = [k for k, t in enumerate(clause) if t.type in _ITEMS]
        if own or not carried:
            self.denied = any(negation.values()) or (own and not items and _met(clause))
        if items and any(t.value not in ARTICLES for t in clause[items[-1] + 1 :]):
            # The sentence's predicate ends the list.
            self.denied = False
        if not own and not carried and _bare(clause):
            for _, following in clauses[index + 1 :]:
                if _bare(following):
                    continue
                # The negation stands after the last of the list.
                late = next((k for k, t in enumerate(following) if t.type == "negator"), -1)
                first = next((k for k, t in enumerate(following) if t.type in _ITEMS), len(following))
                verbs = any(t.type in ("verb", "idle", "finding") for t in following)
                return late > first and not verbs
        return carried

    def _criteria(self, clause: list[Token], denied: bool) -> bool:
        """ "The criterion X is not met", "No criterion is met", "Only 2 of three hold"."""
        numbers = [t.value for t in clause if t.type == "number"]
        words = {t.value for t in clause if t.type == "word"}
        marks = [(k, t) for k, t in enumerate(clause) if t.type == "criterion"]
        holds = bool(words & MET)
        claimed = any(t.entity == CLAIM for _, t in marks)
        if self.lexicon.has_criteria and len(numbers) == 2 and numbers[1] == "3" and "of" in words:
            self._emit("count", "criteria", "number", numbers[0])
            return True
        denies = any(t.type == "negator" for t in clause)
        if numbers and marks and all(t.value == ANY for _, t in marks) and holds and not denies:
            self._emit("count", "criteria", "number", numbers[0])
            return True
        if marks and not claimed and not HELD.search(self.text):
            return False
        named = [(k, t) for k, t in marks if t.value != ANY] or marks
        if not named:
            # "Met:" and "Not met:" before a list.
            return self.lexicon.has_criteria and _met(clause) and not any(t.type in _ITEMS for t in clause)
        odd = sum(t.type == "negator" for t in clause) % 2 == 1
        for _, token in named:
            self._emit("criterion", token.value, "met", negated=odd != denied)
        return True

    def _total(self, clause: list[Token]) -> bool:
        """ "That makes 2", "two in total"."""
        numbers = [t.value for t in clause if t.type == "number"]
        words = {t.value for t in clause if t.type == "word"}
        if len(numbers) == 1 and words & {"makes", "total", "count", "altogether"}:
            tool = next((t.value for t in clause if t.type == "tool"), "instrument")
            self._emit("count", tool, "number", numbers[0])
            return True
        return False

    def _joint(self, index: int, clauses: list[tuple[str, list[Token]]]) -> bool:
        """Whether bare tools share the verb of the next clause: "the hook and the grasper dissect ..."."""
        clause = clauses[index][1]
        if not _bare(clause) or not all(t.type in ("tool", "word", "number") for t in clause):
            return False
        for separator, following in clauses[index + 1 :]:
            types = [t.type for t in following]
            if "verb" in types or "idle" in types:
                verb = min(k for k, t in enumerate(types) if t in ("verb", "idle"))
                return separator in ("and", "or", "nor", ",") and "tool" in types[:verb]
            if not _bare(following):
                return False
        return False

    def _more_targets(self, separator: str, clause: list[Token]) -> bool:
        """ "... dissects the cystic duct and the cystic artery"."""
        tissues = [t.value for t in clause if t.type == "tissue"]
        if not (separator in ("and", ",", "or") and tissues and _bare(clause)):
            return False
        if any(t.type == "tool" for t in clause) or self.verb == NULL:
            return False
        for target in tissues:
            for agent in self.agents or ("",):
                self._emit("deed", agent, self.verb, target, self.denied)
        return True

    def _deeds(self, clause: list[Token], verbs: list[int], separator: str) -> bool:
        """Who does what to what. The agent stands before the verb or after by/with/using; the target after
        the verb, in the passive before it; what is not said is inherited from the clause before.
        """
        first = verbs[0]
        agents, joint = [], bool(self.agents) and not self.acted
        targets: list[tuple[int, str]] = []
        words = {t.value for t in clause if t.type == "word"}
        for k, token in enumerate(clause):
            if token.type == "tool" and (k < first or _after(clause, k, AGENT) or k == first + 1):
                agents.append(token.value)
            elif token.type == "tissue" and not (k > first and _after(clause, k, LANDMARK - {"on", "of"})):
                targets.append((k, token.value))
        if "been" in words and not agents and not self.agents:
            # "The liver has been dissected" tells of the past.
            return False
        if not agents and any(_unnamed(t) for t in clause[:first]):
            # "Another instrument holds the gallbladder."
            self.agents = ()
        elif agents:
            self.agents = (*(self.agents if joint else ()), *agents)
        elif any(k < first for k, _ in targets):
            self.agents = ()
        elif not self.agents and self.present:
            # "The grasper, at the top left, retracts ...", "Using the hook, the surgeon ..."
            self.agents = (self.present,)
        if all(clause[k].entity == NOUN for k in verbs):
            # "Traction on the gallbladder" by whom, is not said before.
            self.agents = tuple(
                t.value for k, t in enumerate(clause) if t.type == "tool" and _after(clause, k, AGENT)
            )
        items = [k for k, t in enumerate(clause) if t.type in _ITEMS]
        negators = sum(t.type == "negator" for t in clause)
        # "Nothing has been clipped or divided."
        odd = negators % 2 == 1 or (not negators and self.denied and separator in ("or", "nor"))
        done = False
        for k in verbs:
            token = clause[k]
            verb = "clip" if token.type == "finding" else token.value
            after = [t for at, t in targets if at > k]
            before = [t for at, t in targets if at < k]
            chosen = after or before
            if verb != NULL and not chosen and k == items[0] and self.acted and self.target:
                # "... grasps the duct and cuts it", but not "burning one strand after another".
                chosen = [self.target] if _objectless(clause[k + 1 :]) else []
            if verb == NULL:
                chosen = ["null target"]
            if not self.agents and (not chosen or verb == NULL):
                continue
            for agent, target in product(self.agents or ("",), chosen or [""]):
                self._emit("deed", agent, verb, target, odd)
            self.verb, self.target, done = verb, chosen[0] if chosen else "", True
        self.acted = done or self.acted
        self.denied = odd
        for k, token in enumerate(clause):
            if token.type == "place":
                previous = max((j for j in range(k) if clause[j].type in ("tool", "tissue")), default=-1)
                # After the verb a place may be the target's or the deed's: not guessed.
                if 0 <= previous < first and k < first:
                    self._emit("place", clause[previous].value, "at", token.value)
                elif k < first and agents:
                    self._emit("place", agents[0], "at", token.value)
        if self.place and agents:
            self._emit("place", agents[0], "at", self.place)
            self.place = ""
        return False

    def _presence(
        self, clause: list[Token], negation: dict[int, bool], denied: bool, rest: list[Token]
    ) -> None:
        """Entities seen or not seen, how many, where. `rest` is what ends the list the clause is part of."""
        entities = [k for k, t in enumerate(clause) if t.type in ("tool", "tissue", "instrument")]
        places = [k for k, t in enumerate(clause) if t.type == "place" and not _relative(clause, k)]
        for k, token in enumerate(clause):
            if token.type == "structure" and negation[k] and not entities and _denies_presence(clause, rest):
                self._emit("tissue", ANY, "seen", negated=True)
        placed: dict[int, int] = {}
        for p in places:
            before = [k for k in entities if k < p and not _landmark(clause, k)]
            if before:
                placed[before[-1]] = p
            elif entities:
                placed[entities[0]] = p
            elif self.last and not self.acted:
                self._emit("place", self.last, "at", clause[p].value, negation[p])
            elif not self.acted:
                self.place = clause[p].value
        for k in entities:
            if _landmark(clause, k):
                continue
            token = clause[k]
            subject = ANY if token.type == "instrument" else token.value
            odd = negation[k] != denied
            opens = clause[0].type == "negator" and not self.found
            if subject == ANY and odd and not denied and not opens and not _seeing(clause):
                # "The glint is a reflection and no instrument" says what something is.
                continue
            number = _number_before(clause, k)
            kind: Kind = "tool" if token.type == "instrument" or subject in self.lexicon.tools else "tissue"
            if number is not None and kind == "tool" and k not in placed:
                # "no two graspers" denies the number, not the tool.
                self._emit(
                    "count", "instrument" if subject == ANY else subject, "number", number, odd and not denied
                )
                if subject != ANY and number != "0" and not odd:
                    self._emit(kind, subject, "seen")
            elif k in placed:
                at = placed[k]
                if not odd and subject != ANY:
                    self._emit(kind, subject, "seen")
                self._emit("place", subject, "at", clause[at].value, odd != negation[at])
            elif odd and not denied and not _denies_presence(clause, rest):
                # "The hook is not bent" says nothing about whether it is there.
                continue
            else:
                self._emit(kind, subject, "seen", negated=odd)
                if self.place and not odd:
                    self._emit("place", subject, "at", self.place)
                    self.place = ""
            self.last = subject
            if token.type == "tool" and not odd:
                self.present = subject


def _clauses(tokens: Sequence[Token]) -> list[tuple[str, list[Token]]]:
    """(separator before, tokens) of every clause that holds a token. "nor" and "without" separate and
    negate.
    """
    clauses: list[tuple[str, list[Token]]] = []
    separator = ""
    current: list[Token] = []
    for k, token in enumerate([*tokens, Token("separator", "")]):
        if token == Token("word", "to") and k + 1 < len(tokens) and _purpose(tokens[k + 1]):
            token = Token("separator", PURPOSE)
        opens = token.type == "negator" and token.value in OPENING
        if token.type == "separator" or opens:
            if current:
                clauses.append((separator, current))
                separator = token.value
            elif token.value not in (",", "") or not separator:
                separator = token.value
            current = [token] if opens else []
        else:
            current.append(token)
    return clauses


def _purpose(token: Token) -> bool:
    """Whether "to" before this token says what for ("to expose the triangle"): nothing is claimed by that."""
    return token.type == "word" and token.value not in STOP


def _scopes(clause: list[Token]) -> dict[int, bool]:
    """Token index -> negated, for every item: a negator denies the next item of its clause, or the item
    before it if none follows ("the hook is not visible"). Two cancel.
    """
    items = [k for k, t in enumerate(clause) if t.type in _ITEMS]
    odd = dict.fromkeys(range(len(clause)), False)
    for k, token in enumerate(clause):
        if token.type != "negator":
            continue
        following = next((i for i in items if i > k), None)
        previous = next((i for i in reversed(items) if i < k), None)
        chosen = previous if token.value in BACKWARD and previous is not None else following
        if chosen is None and token.value not in FORWARD:
            chosen = previous
        if chosen is not None:
            odd[chosen] = not odd[chosen]
    return odd


def _bare(clause: list[Token]) -> bool:
    """Nothing but entities or criteria, numbers, articles and negators: an element of a list."""
    names = [t for t in clause if t.type in ("tool", "tissue", "criterion", "instrument")]
    return bool(names) and all(
        t.type in ("tool", "tissue", "criterion", "instrument", "number", "negator")
        or (t.type == "word" and t.value in ARTICLES)
        for t in clause
    )


def _element(clause: list[Token]) -> bool:
    """A bare clause, or the last of a list with its predicate: "or scissors is visible"."""
    items = [k for k, t in enumerate(clause) if t.type in _ITEMS]
    if not items:
        return False
    rest = clause[items[-1] + 1 :]
    return _bare(clause[: items[-1] + 1]) and all(t.type == "word" and t.value in PRESENCE for t in rest)


def _met(clause: list[Token]) -> bool:
    return any(t.value in MET for t in clause)


def _after(clause: list[Token], k: int, words: frozenset[str]) -> bool:
    """Whether one of the words stands before token k, articles between them let through."""
    while k > 0 and clause[k - 1].type == "word" and clause[k - 1].value in ARTICLES:
        k -= 1
    return k > 0 and clause[k - 1].type == "word" and clause[k - 1].value in words


def _denies_presence(clause: list[Token], rest: list[Token]) -> bool:
    """Whether nothing but words of seeing follows the first negator."""
    first = next((k for k, t in enumerate(clause) if t.type == "negator"), 0)
    return all(t.type != "word" or t.value in PRESENCE | ARTICLES for t in [*clause[first:], *rest])


_PICTURE = frozenset({"image", "frame", "picture", "field", "view", "scene", "photo", "screen"})


def _relative(clause: list[Token], k: int) -> bool:
    """Whether a place is that of one thing to another: "to the right of the hook", not "of the image"."""
    rest = [t.value for t in clause[k + 1 :] if t.value not in ARTICLES]
    return bool(rest) and rest[0] == "of" and not (len(rest) > 1 and _PICTURE & set(rest[1:4]))


def _seeing(clause: list[Token]) -> bool:
    return any(t.value in ("visible", "view", "seen", "see", "present", "there", "inserted") for t in clause)


def _rest_of_list(index: int, clauses: list[tuple[str, list[Token]]]) -> list[Token]:
    """What follows the last entity of a list that starts with a bare clause: its predicate."""
    if not _bare(clauses[index][1]):
        return []
    for separator, clause in clauses[index + 1 :]:
        if separator not in ("and", "or", "nor", ","):
            break
        if not _bare(clause):
            items = [k for k, t in enumerate(clause) if t.type in _ITEMS]
            return clause[items[-1] + 1 :] if items and _bare(clause[: items[-1] + 1]) else []
    return []


_PRONOUNS = frozenset(
    {"it", "them", "its", "their", "free", "off", "away", "up", "aside", "firmly", "gently"}
)


def _objectless(rest: list[Token]) -> bool:
    """Whether no noun that is not read stands after a verb."""
    return all(t.type != "word" or t.value in STOP | _PRONOUNS | LANDMARK for t in rest)


def _unnamed(token: Token) -> bool:
    """A doer without a name: "an instrument", "the other"."""
    return token.type == "instrument" or (token.type == "word" and token.value == "neighbour")


def _landmark(clause: list[Token], k: int) -> bool:
    """A thing named to say where another is ("a hook near the gallbladder") is not itself claimed, nor one
    that is compared with.
    """
    return _after(clause, k, COMPARED) or (
        _after(clause, k, LANDMARK) and any(t.type in _ITEMS for t in clause[:k])
    )


def _number_before(clause: list[Token], k: int) -> str | None:
    """The number that counts token k, at most two adjectives between them."""
    for back in range(1, 4):
        if k - back < 0:
            return None
        token = clause[k - back]
        if token.type == "number":
            return token.value
        if token.type != "word" or token.value in STOP or token.value in LANDMARK:
            return None
    return None


def _noun_of_verb(clause: list[Token], k: int) -> bool:
    """Whether "clips" is a verb here: a tool before it, a tissue right after it."""
    if clause[k].type != "finding" or clause[k].value != "clips set" or clause[k].negators:
        return False
    following = [t for t in clause[k + 1 :] if not (t.type == "word" and t.value in ARTICLES)]
    return any(t.type == "tool" for t in clause[:k]) and bool(following) and following[0].type == "tissue"
