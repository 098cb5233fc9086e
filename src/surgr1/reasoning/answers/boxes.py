"""Boxes in every notation that models write."""

import math
import re
import unicodedata
from collections.abc import Iterator

from surgr1.reasoning.answers.sentences import DENIAL
from surgr1.reasoning.answers.spec import AMBIGUOUS, EMPTY, MISSING, AnswerSpec, Extraction
from surgr1.reasoning.trace import Outcome

Box = tuple[float, float, float, float]
_FORM = "({},{}),({},{})"
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_GROUP = re.compile(rf"[(\[]\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*[)\]]")
_BARE = re.compile(rf"\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*")
_PAIR_GAP = re.compile(r"[\s,\[\]()]*(?:to|->?)?[\s,\[\]()]*")
_CORNER = re.compile(
    rf"\b(x_?min|y_?min|x_?max|y_?max|x1|y1|x2|y2|left|top|right|bottom)[\"']?\s{{0,4}}[:=]\s{{0,4}}({_NUMBER})",
    re.IGNORECASE,
)
_CORNER_NAMES = (
    {"x1", "left", "xmin"},
    {"y1", "top", "ymin"},
    {"x2", "right", "xmax"},
    {"y2", "bottom", "ymax"},
)
_BOX_FORM = re.compile(
    r"<ref>[^<]{0,200}</ref>|<\|object_ref_start\|>[^<]{0,200}<\|object_ref_end\|>|</?\|?\w+\|?>"
    r"|[\"'](?:label|name|class|object|tool|text|score|confidence)[\"']\s{0,4}:\s{0,4}(?:\"[^\"]{0,200}\"|'[^']{0,200}'"
    r"|[\d.]+)|\\boxed|\b(?:final |correct )?answer\b|\b(?:bounding )?box(?:_2d|es)?\b|\bbbox(?:_2d)?\b"
    r"|\bcoordinates\b|\bjson\b",
    re.IGNORECASE,
)


def parse_boxes(text: str) -> list[Box]:
    """Boxes in order, each once: `(x1,y1),(x2,y2)`, `[x1, y1, x2, y2]` (round or square brackets, nested, in
    the tags of Qwen and InternVL), JSON `"bbox_2d": […]`, `x1=…, y1=…, x2=…, y2=…` and a text that is four
    bare numbers.

    Corners are put in order; boxes of no area or with a number that is not finite are dropped, and so are
    lists of other lengths and an odd number of points in a row. Coordinates stay in the frame and axis order
    of the model; width and height are not read as a corner.
    """
    return list(dict.fromkeys(box for _, _, box in _boxes_at(text)))


def _boxes_at(text: str) -> list[tuple[int, int, Box]]:
    """Where boxes stand in the NFKC form of a text."""
    text = unicodedata.normalize("NFKC", text)
    found: list[tuple[int, int, list[float]]] = []
    points: list[tuple[int, int, list[float]]] = []

    def flush() -> None:
        if len(points) % 2 == 0:
            for a, b in zip(points[::2], points[1::2], strict=True):
                found.append((a[0], b[1], a[2] + b[2]))
        points.clear()

    for match in _GROUP.finditer(text):
        numbers = [float(n) for n in match.group(1).split(",")]
        start, end = match.span()
        if points and not (
            len(numbers) == 2
            and start - points[-1][1] <= 20
            and _PAIR_GAP.fullmatch(text[points[-1][1] : start])
        ):
            flush()
        if len(numbers) == 2:
            points.append((start, end, numbers))
        elif len(numbers) == 4:
            found.append((start, end, numbers))
    flush()
    found.extend(_named_corners(text))
    if not found and (bare := _BARE.fullmatch(text)):
        found.append((*bare.span(), [float(n) for n in bare.group(1).split(",")]))
    boxes = []
    for start, end, (a, b, c, d) in sorted(found):
        box = (min(a, c), min(b, d), max(a, c), max(b, d))
        if all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]:
            boxes.append((start, end, box))
    return boxes


def _named_corners(text: str) -> Iterator[tuple[int, int, list[float]]]:
    """Four assignments in a row that name all corners, in any order."""
    run: list[tuple[int, re.Match[str]]] = []
    for match in _CORNER.finditer(text):
        name = match.group(1).lower().replace("_", "")
        axis = next(i for i, names in enumerate(_CORNER_NAMES) if name in names)
        if axis in [a for a, _ in run]:
            run = []
        run.append((axis, match))
        if len(run) == 4:
            values = [float(m.group(2)) for _, m in sorted(run, key=lambda entry: entry[0])]
            yield run[0][1].start(), match.end(), values
            run = []


def format_box(box: Box) -> str:
    """The canonical answer form, whole pixels."""
    return _FORM.format(*map(round, box))


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two x1,y1,x2,y2 boxes in continuous coordinates (no +1; evaluation.md
    B5).
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def read_box(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """The only box of the answer. One that whole pixels would make empty (coordinates from 0 to 1) keeps its
    decimals.
    """
    if not text.strip():
        return EMPTY
    places = _boxes_at(text)
    boxes = {box for _, _, box in places}
    if len(boxes) != 1:
        return AMBIGUOUS if boxes else MISSING
    (box,) = boxes
    value = format_box(box)
    if not parse_boxes(value):
        value = _FORM.format(*(repr(v).removesuffix(".0") for v in box))
    flat = unicodedata.normalize("NFKC", text)
    before = re.findall(r"\w+", flat[max(0, places[0][0] - 60) : places[0][0]].lower())[-3:]
    if DENIAL.intersection(before):
        return MISSING
    ends = [0, *(end for _, end, _ in places)]
    starts = [*(start for start, _, _ in places), len(flat)]
    rest = " ".join(flat[end:start] for end, start in zip(ends, starts, strict=True) if start > end)
    bare = _BARE.fullmatch(flat) is not None
    connected = any(re.search(r"\)\s*(?:to|->?)\s*\(", flat[start:end]) for start, end, _ in places)
    prose = bare or connected or re.search(r"\w", _BOX_FORM.sub(" ", rest)) is not None
    return Extraction(value, Outcome.REPAIRED, "mention") if prose else Extraction(value, Outcome.OK, "exact")
