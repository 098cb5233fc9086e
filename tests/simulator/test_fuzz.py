"""No broken file makes an adapter fail with anything but a SurgR1Error, or give a frame that cannot be asked
about. One file or folder of every layout's trial tree at a time is changed by a seeded draw, the tree is
read, and the file is put back.
"""

import csv
import io
import json
import math
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from surgr1.corpora.files import Rejects
from surgr1.corpora.questions import Frame
from surgr1.corpora.sources import Source, open_source
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.simulator.verify import write_trial
from surgr1.simulator.writers import layouts, writer
from surgr1.simulator.writers.common import Trial

MUTATIONS = 6
"""Per layout."""
Change = Callable[[Random, bytes], bytes]


class Unfit(Exception):
    """A change that cannot be made of this file; another one is drawn."""


# Bytes and lines of any file.


def flip_bytes(rng: Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 20))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    pieces = ("\x00", "\x85", "\u2028", "\x0c", "\r", "\t", '"', ",", "\n\n", "é", "²", "-", " ")
    piece = rng.choice((*(p.encode() for p in pieces), b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80"))
    return data[:at] + piece + data[at:]


def empty(rng: Random, data: bytes) -> bytes:
    return rng.choice((b"", b"\n", b" ", b"\xef\xbb\xbf", b"0", b"null"))


def other_encoding(rng: Random, data: bytes) -> bytes:
    return data.decode("latin-1").encode(rng.choice(("utf-16", "utf-16-le", "utf-32")))


def lines(rng: Random, data: bytes) -> bytes:
    """A line deleted, doubled, exchanged with another one, or all of them turned round."""
    rows = data.split(b"\n")
    if len(rows) < 3:
        raise Unfit
    a, b = rng.randrange(len(rows)), rng.randrange(len(rows))
    match rng.randrange(5):
        case 0:
            del rows[a]
        case 1:
            rows.insert(b, rows[a])
        case 2:
            rows[a], rows[b] = rows[b], rows[a]
        case 3:
            rows.reverse()
        case _:
            del rows[min(a, b) : max(a, b)]
    return b"\n".join(rows)


# Tables.

_CELLS = (
    "",
    "x",
    "-1",
    "0",
    "1",
    "7",
    "1e400",
    "nan",
    "inf",
    "9" * 30,
    "9" * 5000,
    "2.0",
    "1_0",
    "+1",
    "٣",
    "²",
)


def table(rng: Random, data: bytes) -> bytes:
    """A cell dropped, added, exchanged with its neighbour, or with another value."""
    rows = data.decode("utf-8").split("\n")
    mark = max("\t,|;: ", key=lambda m: data.count(m.encode()))
    at = rng.randrange(len(rows))
    cells = rows[at].split(mark)
    k = rng.randrange(len(cells))
    match rng.randrange(6):
        case 0:
            del cells[k]
        case 1:
            cells.insert(k, rng.choice(_CELLS))
        case 2:
            cells[k], cells[k - 1] = cells[k - 1], cells[k]
        case 3 if cells[k].strip().isdigit():
            cells[k] = str(int(cells[k]) + rng.choice((-1, 1, 25, 10**6)))
        case _:
            cells[k] = rng.choice(_CELLS)
    rows[at] = mark.join(cells)
    return "\n".join(rows).encode()


# JSON and YAML.

_HERE = "@@here@@"
_TOKENS = (
    *("null", '""', "-1", "0", "1e400", "-1e400", "NaN", "true", "false", "[]", "{}", "[[]]", "[null]"),
    *("9" * 30, "9" * 400, "1e308", "0.5", '"12"', '"' + "7" * 5000 + '"', '"²"', '"x"', '"a\\u0000b"'),
    *('"\\ud800"', '"/etc/passwd"', '"../../x"', '"a/../b"', '{"x": 1}', '"\\n"', "123456789", "1e3"),
)


def _descend(rng: Random, body: Any) -> tuple[Any, Any]:
    """(container, key or index) of a random value."""
    box, key = {"": body}, ""
    while True:
        value = box[key]
        if not isinstance(value, dict | list) or not value or (box[key] is not body and rng.random() < 0.15):
            return box, key
        box = value
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        # By length: what describes frames is longer than what describes the file.
        key = rng.choices(keys, [len(str(value[k])) + 1 for k in keys])[0]


def _tamper(rng: Random, body: Any) -> Any:
    """The value with one thing in it changed in place; tokens stand in by name."""
    top = [body]
    box, key = _descend(rng, top)
    match rng.randrange(8):
        case 0:
            del box[key]
        case 1 if isinstance(box, dict):
            box[rng.choice(("", "x", "²", "007", "9" * 30, "9" * 5000, f"{key} "))] = box.pop(key)
        case 1 | 2 if isinstance(box, list):
            box.insert(rng.randrange(len(box) + 1), box[key])
        case 2 | 3:
            other = rng.choice(list(box)) if isinstance(box, dict) else rng.randrange(len(box))
            box[key], box[other] = box[other], box[key]
        case 4 if isinstance(box[key], int | float):
            box[key] = rng.choice((box[key] + 1, -box[key], box[key] * 1000, box[key] + 0.5))
        case _:
            box[key] = _HERE
    if not top:
        raise Unfit
    return top[0]


def _dump(rng: Random, body: Any, *more: str) -> str:
    token = rng.choice((*_TOKENS, *more * 3))
    if rng.random() < 0.1:
        deep = rng.choice((rng.randrange(1, 2000), rng.randrange(900, 1000), 100_000))
        token = "[" * deep + "]" * deep
    return json.dumps(body).replace(f'"{_HERE}"', token)


def json_value(rng: Random, data: bytes) -> bytes:
    return _dump(rng, _tamper(rng, json.loads(data))).encode()


def json_line(rng: Random, data: bytes) -> bytes:
    rows = data.decode().splitlines()
    at = rng.randrange(len(rows))
    rows[at] = _dump(rng, _tamper(rng, json.loads(rows[at])))
    return "\n".join(rows).encode()


def yaml_value(rng: Random, data: bytes) -> bytes:
    """JSON is YAML; dates, numbers to base 60, tags and loops are not JSON."""
    more = ("2020-13-45", "1:99:1", "0b2", "!!int x", "!!python/object:os.system {}", "&a [*a]", "? [1]")
    return _dump(rng, _tamper(rng, yaml.safe_load(data)), *more).encode()


# Pickles, workbooks, pictures.


class Foreign:
    """What no label file holds."""


def pickled(rng: Random, data: bytes) -> bytes:
    body = pickle.loads(data)
    if rng.random() < 0.8:
        body = _tamper(rng, body)
    deep: Any = []
    for _ in range(rng.choice((5, 300))):
        deep = [deep]
    thing = rng.choice(
        (None, -1, 1.5, math.nan, 10**30, 10**400, "x", b"x", True, [], {}, deep, Foreign(), 254)
    )
    return pickle.dumps(_exchange(body, thing), protocol=rng.randrange(6))


def _exchange(body: Any, thing: Any) -> Any:
    """The body with `thing` where the token stands."""
    if isinstance(body, dict):
        return {k: _exchange(v, thing) for k, v in body.items()}
    if isinstance(body, list):
        return [_exchange(v, thing) for v in body]
    return thing if isinstance(body, str) and body == _HERE else body


def workbook(rng: Random, data: bytes) -> bytes:
    """A cell of another kind, a row more or less, a column less."""
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data))
    sheet = book.worksheets[0]
    row, column = rng.randint(1, sheet.max_row), rng.randint(1, sheet.max_column)
    match rng.randrange(8):
        case 0:
            sheet.delete_rows(row)
        case 1:
            sheet.delete_cols(column)
        case 2:
            sheet.insert_rows(row)
        case 3:
            sheet.append([c.value for c in sheet[row]])
        case 4:
            book.create_sheet("first", 0)
        case _:
            texts, numbers = ("", "x", "=1+1", "7", "1" * 400), (-1, 3, 1.5, 1e300, 10**15)
            sheet.cell(row, column).value = rng.choice((None, True, date(2020, 2, 3), *texts, *numbers))
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def zipped(rng: Random, data: bytes) -> bytes:
    """A member left out, damaged or emptied, in a whole zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = rng.choice(old.namelist())
        change = rng.choice((flip_bytes, cut, insert, empty, lambda *_: None))
        for name in old.namelist():
            body = old.read(name) if name != chosen else change(rng, old.read(name))
            if body is not None:
                new.writestr(name, body)
    return out.getvalue()


def picture(rng: Random, data: bytes) -> bytes:
    """Another size or mode, stray values, one colour, another format, or an absurd size in the header."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        image, kind = opened, opened.format
    width, height = image.size
    pixels = np.asarray(image).copy()
    match rng.randrange(7):
        case 0:
            size = rng.choice(((1, 1), (width, height - 1), (width // 2, height // 2), (height, width)))
            image = image.resize(size, Image.Resampling.NEAREST)
        case 1:
            kind, image = "PNG", image.convert(rng.choice(("RGB", "RGBA", "L", "LA", "P", "1", "F")))
            if image.mode == "F":
                image = Image.fromarray(pixels.reshape(height, -1)[:, :width].astype(np.uint16) * 257)
        case 2:
            y, x = rng.randrange(height), rng.randrange(width)
            pixels[y : y + 9, x : x + 9] = rng.randrange(256) if pixels.dtype != bool else True
            image = Image.fromarray(pixels)
        case 3:
            image = Image.fromarray(np.full_like(pixels, rng.choice((0, 0, 1, 255))))
        case 4:
            kind, image = rng.choice(("GIF", "BMP", "TIFF", "JPEG")), image.convert("L")
        case 5 if kind == "PNG":
            sides = rng.choice((b"\x00\x01\x00\x00", b"\x7f\xff\xff\xff", bytes(4)))
            return data[:16] + sides * 2 + data[24:]
        case _:
            image = image.transpose(rng.choice((Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90)))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


_ANY = (flip_bytes, cut, insert, empty)
_TEXT = (*_ANY, other_encoding, lines, lines)
_CHANGES: dict[str, tuple[Change, ...]] = {
    ".json": (*_TEXT, *(json_value,) * 14),
    ".jsonl": (*_TEXT, *(json_line,) * 14),
    ".yaml": (*_TEXT, *(yaml_value,) * 14),
    ".csv": (*_TEXT, *(table,) * 10),
    ".txt": (*_TEXT, *(table,) * 10),
    ".pickle": (*_ANY, *(pickled,) * 8),
    ".xlsx": (*_ANY, *(workbook,) * 8, *(zipped,) * 4),
    ".png": (*_ANY, *(picture,) * 8),
    ".jpg": (*_ANY, picture),
}


# What stands where in the tree.


def _in_its_place(rng: Random, path: Path) -> str:
    """Something else in the place of a file or folder, which is gone. Returns what."""
    match rng.randrange(6):
        case 0:
            return "missing"
        case 1:
            path.mkdir()
            return "a folder"
        case 2:
            path.mkdir()
            (path / path.name).write_bytes(b"1")
            return "a folder with a file"
        case 3:
            path.write_bytes(rng.choice((b"", b"x")))
            return "a file"
        case 4:
            path.symlink_to(path.name)
            return "a link to itself"
        case _:
            path.symlink_to("/dev/null")
            return "a link to a device"


def _other_name(rng: Random, path: Path) -> Path:
    """A name that differs in one character, in its ending, or is none a file should have."""
    at = rng.randrange(len(path.name))
    letter = rng.choice((*"0123456789", "²", "x", " ", "\n", os.fsdecode(b"\xff"), "", ""))
    return path.with_name(path.name[:at] + letter + path.name[at + 1 :] or "x")


@contextmanager
def changed(top: Path, rng: Random) -> Iterator[str]:
    """One file or folder below `top` changed; yields what was done to which."""
    files = [p for p in sorted(top.rglob("*")) if p.is_file() and p.suffix in _CHANGES]
    files = [p for p in files if p.name != "SIMULATED.txt" and not p.name.startswith("._")]
    kinds = sorted({p.suffix for p in files})
    # Pictures are many, and only masks among them are labels.
    kind = rng.choices(kinds, [{".png": 2, ".jpg": 1}.get(k, 4) for k in kinds])[0]
    path = rng.choice([p for p in files if p.suffix == kind])
    held = top.parent / "held"
    now, draw = path, rng.random()
    if draw < 0.12:
        above = [p for p in path.parents if top in p.parents and p.parent != top]
        path = now = rng.choice([path, *above])
        path.rename(held)
        done = _in_its_place(rng, path)
    elif draw < 0.2:
        now = _other_name(rng, path)
        if os.path.lexists(now):
            path.rename(held)
            done, now = "missing", path
        elif draw < 0.16:
            shutil.copyfile(path, now)
            done = f"copied to {now.name!r}"
        else:
            path.rename(held)
            shutil.copyfile(held, now)
            done = f"renamed {now.name!r}"
    else:
        change, data = rng.choice(_CHANGES[path.suffix]), path.read_bytes()
        try:
            after = change(rng, data)
        except Unfit:
            change, after = flip_bytes, flip_bytes(rng, data)
        path.rename(held)
        path.write_bytes(after)
        done = change.__name__
    try:
        yield f"{path.relative_to(top)}: {done}"
    finally:
        moved = os.path.lexists(held)
        for left in {now, path} if moved else {now}:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)
        if moved:
            held.rename(path)


# What must be true of a frame whatever is read.

_KINDS = {"tools": "tool", "tissues": "tissue", "verbs": "verb", "targets": "target"}


def faults(frame: Frame, source: Source) -> list[str]:
    """What is wrong with a frame, in itself."""
    labels, found = frame.labels, []
    for sample in frame.samples():
        text = (sample.question, sample.answer, sample.focus, sample.video, sample.image)
        if not sample.question.strip() or not sample.answer.strip() or "\0" in "".join(text):
            found.append(f"asks {text}")
        "".join(text).encode()
    # A generic tree whose pictures are not looked at has no size.
    width, height = frame.size if frame.size != (0, 0) else (math.inf, math.inf)
    for name, (x1, y1, x2, y2) in ((b.name, b.xyxy) for b in labels.boxes or ()):
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            found.append(f"box of {name}: {(x1, y1, x2, y2)} in {width} x {height}")
    if not (0 <= frame.seconds < math.inf and 0 <= frame.frame < 2**63):
        found.append(f"frame {frame.frame} at {frame.seconds} s")
    if frame.tool_count is not None and not 0 <= frame.tool_count < 100:
        found.append(f"{frame.tool_count} tools")
    if Path(frame.image).is_absolute() or ".." in Path(frame.image).parts:
        found.append(f"image {frame.image}")
    if source.images == "check" and not os.path.lexists(source.picture_root / frame.image):
        found.append(f"image {frame.image} is not there")
    lists = {k: getattr(labels, k) or () for k in _KINDS}
    singles = {
        k: (v,) for k in ("phase", "step", "action", "motion") if (v := getattr(labels, k)) is not None
    }
    for field, names in (lists | singles).items():
        kind = _KINDS.get(field, field)
        known = vocabulary(source.dataset, kind).names if has_vocabulary(source.dataset, kind) else names
        if set(names) - set(known) or len(set(names)) < len(names):
            found.append(f"{field} {names}")
    return found


def read(source: Source, rejects: Rejects) -> list[Frame]:
    """Every frame, after a look at each, and at all of them together."""
    tree = open_source(source, rejects)
    frames: list[Frame] = []
    for video in tree.videos:
        before = -1.0
        for frame in tree.frames(video):
            wrong = faults(frame, source)
            assert not wrong, f"{video} frame {frame.frame}: {wrong}"
            assert frame.video == video and frame.role == tree.roles[video]
            assert frame.seconds >= before, f"{video} frame {frame.frame} at {frame.seconds} after {before} s"
            before = frame.seconds
            frames.append(frame)
    names = [(f.video, f.frame) for f in frames]
    assert len(set(names)) == len(names)
    return frames


# The trees.


def trial(layout: str, folder: Path) -> Source:
    """The layout's trial tree, short; the generic layout has no writer and a tree of two videos here."""
    if layout.startswith("generic"):
        return generic_trial(folder / "top" / "own", layout.removeprefix("generic "))
    module = writer(layout)
    whole = module.TRIAL
    # Endoscapes has a keyframe with boxes every few seconds.
    seconds = 16 if layout.startswith("endoscapes") else 12
    module.TRIAL = Trial(seconds, whole.train[:1], whole.val[:1], whole.test[:1])
    try:
        return write_trial(layout, folder / "top")[0]
    finally:
        module.TRIAL = whole


def generic_trial(root: Path, table: str) -> Source:
    rows = [
        {
            "video": f"v{k % 2}",
            "frame": k,
            "seconds": k / 2,
            "image": f"pictures/{k}.png",
            "split": "train" if k % 2 else "test",
            "tools": "grasper; hook" if table == "csv" else ["grasper", "hook"],
            "phase": "preparation",
            "C1": "true" if table == "csv" else True,
            "boxes": "hook 1 2 30 40.5" if table == "csv" else [{"name": "hook", "xyxy": [1, 2, 30, 40.5]}],
            "questions": [{"question": "What is cut?", "answer": "The duct."}],
        }
        for k in range(6)
    ]
    (root / "pictures").mkdir(parents=True)
    for k in range(6):
        Image.new("RGB", (64, 48), (k, 0, 0)).save(root / "pictures" / f"{k}.png")
    about = {
        "format": "surgr1-frames",
        "version": 1,
        "dataset": "own",
        "centre": "here",
        "procedure": "laparoscopic cholecystectomy",
        "vocabularies": {"phase": ["Preparation", "Dissection"], "tool": ["grasper", "hook"]},
    }
    (root / "dataset.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    if table == "jsonl":
        text = "\n".join(json.dumps(r) for r in rows)
    else:
        out = io.StringIO()
        columns = [c for c in rows[0] if c != "questions"]
        written = csv.DictWriter(out, columns, extrasaction="ignore")
        written.writeheader()
        written.writerows(rows)
        text = out.getvalue()
    (root / f"frames.{table}").write_text(text, encoding="utf-8")
    return Source(dataset="own", root=root, format="generic")


# What such runs found, by layout: file, change, and what must be said of it now.


def _json(edit: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    """A change of a JSON file; `edit` works in place."""

    def change(data: bytes) -> bytes:
        body = json.loads(data)
        edit(body)
        return json.dumps(body).encode()

    return change


def _first_line(edit: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    return lambda data: b"\n".join((_json(edit)(data.split(b"\n", 1)[0]), data.split(b"\n", 1)[1]))


def _answers(text: str) -> Callable[[bytes], bytes]:
    return _json(lambda items: items[0]["conversations"][1].update(value=text))


def _spoilt_sum(data: bytes) -> bytes:
    """A bit of the checksum that stands before a PNG file's last block: the pixels are whole."""
    return data[:-13] + bytes([data[-13] ^ 1]) + data[-12:]


def _encrypted(data: bytes) -> bytes:
    """The bit that says so, in every entry of a zip's directory."""
    out = bytearray(data)
    for entry in re.finditer(rb"PK\x01\x02", data):
        out[entry.start() + 8] |= 1
    return bytes(out)


def _some(body: Any) -> Any:
    """The first list of records that is not empty."""
    return next(rows for rows in body["annotations"].values() if rows)


def _tool_row(body: Any) -> list[Any]:
    return next(r for rows in body["annotations"].values() for r in rows if r[1] >= 0)


_VID, _SMLLM, _ROWS = "*/labels/VID*.json", "**/smllm_train.json", "*/frames.jsonl"
FOUND: dict[str, tuple[tuple[str, Callable[[bytes], bytes], str], ...]] = {
    "cholect50": (
        (_VID, _json(lambda b: b["annotations"].update({"007": []})), "'007' is not a frame number"),
        (_VID, _json(lambda b: b["annotations"].popitem()), "annotates 11 frames, its num_frames is 12"),
        (_VID, _json(lambda b: _tool_row(b).__setitem__(3, 1e400)), "15 numbers from -1 to 99"),
        (_VID, _json(lambda b: _tool_row(b).__setitem__(3, 10**400)), "15 numbers from -1 to 99"),
        (_VID, _json(lambda b: _tool_row(b).__setitem__(6, -0.5)), "is empty or leaves the picture"),
        (_VID, _json(lambda b: _tool_row(b).__setitem__(7, 9)), "contradicts instrument, verb and target"),
        (_VID, _json(lambda b: b["categories"]["verb"].update({"0": "cut"})), "categories: verb is"),
        (_VID, _json(lambda b: _some(b).append(_some(b)[0])), "a vector stands twice"),
    ),
    "autolaparo-localization": (("*/*/masks/*.png", _spoilt_sum, "not a whole mask"),),
    "cholec80-cvs": (("*/*.xlsx", _encrypted, "not a whole workbook"),),
    "endovis18": (("*/**/labels/*.png", _spoilt_sum, "not a whole mask"),),
    "copesd": (
        (_SMLLM, _answers(" "), "empty, or characters that are no text"),
        (_SMLLM, _answers("a\0b"), "empty, or characters that are no text"),
        (_SMLLM, _answers("\ud800"), "empty, or characters that are no text"),
    ),
    "pitvqa": (("**/video_*/*.txt", lambda d: d.replace(b"is", b"i\x0cs", 1), "expected `question"),),
    "psi-ava-vqa": (
        ("**/val_coco*.json", _json(lambda b: b["categories"][0].update(id=1e400)), "not a list of id and"),
        (
            "**/val_coco*.json",
            _json(lambda b: b["annotations"][0]["bbox"].__setitem__(2, 3.0)),
            "is not that of bbox",
        ),
    ),
    "cholectrack20": (
        ("*/Testing/**/VID*.json", _json(lambda b: _some(b)[0].pop("triplet")), "without `triplet`"),
        ("*/Testing/**/VID*.json", _json(lambda b: _some(b).append(_some(b)[0])), "record stands twice"),
    ),
    "sar-rarp50": (
        ("**/action_discrete.txt", lambda d: d.replace(b",", b",+", 1), "expected `frame,class`"),
    ),
    "endoscapes": (
        ("**/annotation_ds_coco.json", _json(lambda b: b["images"][0].update(ds=[0.5, 0, 1])), "so thirds"),
        ("*/train_vids.txt", lambda d: d + b"5.0e+00\n", "video 5 has no record"),
    ),
    "generic jsonl": (
        (_ROWS, _first_line(lambda r: r.update(seconds=1e400)), "seconds: Input should be a finite"),
        (_ROWS, _first_line(lambda r: r.update(tools=["hook", "\0"])), "tools.1: String should match"),
        (_ROWS, _first_line(lambda r: r["boxes"][0]["xyxy"].__setitem__(3, 49.5)), "leaves the picture"),
        (_ROWS, _first_line(lambda r: r["boxes"].append(r["boxes"][0])), "stands twice"),
        (_ROWS, _first_line(lambda r: r.update(tools=["grasper"])), "not among the tools of its frame"),
        (_ROWS, _first_line(lambda r: r["questions"].append(r["questions"][0])), "stands twice"),
        (_ROWS, _first_line(lambda r: r.update(image="pictures/1.png")), "image pictures/1.png stands twice"),
        (_ROWS, _first_line(lambda r: r.update(image="x" * 5000)), "name too long"),
        (_ROWS, lambda d: b"[" * 100_000 + d, "nested too deeply"),
        ("*/dataset.yaml", lambda d: b"a: " + b"[" * 5000, "cannot be read"),
        ("*/dataset.yaml", lambda d: d + b"since: 2020-13-45\n", "cannot be read"),
    ),
}


@contextmanager
def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """The file changed, and put right."""
    before = path.read_bytes()
    after = change(before)
    assert after != before
    path.write_bytes(after)
    yield
    path.write_bytes(before)


@pytest.mark.parametrize("layout", (*layouts(), "generic jsonl", "generic csv"))
def test_a_broken_file_is_an_error_or_rejects_rows_or_leaves_frames_that_can_be_asked(
    tmp_path, layout
) -> None:
    source = trial(layout, tmp_path)
    whole = Rejects(strict=False)
    assert read(source, whole) and not whole.rows
    noticed = 0
    for k in range(MUTATIONS):
        rng = Random(f"{layout} {k}")
        seen = source.model_copy(update={"images": rng.choice(("check", "check", "skip"))})
        with changed(source.root.parent, rng) as what:
            rejects = Rejects(strict=False)
            try:
                read(seen, rejects)
            except SurgR1Error as error:
                assert str(error), what
                noticed += 1
            except Exception as error:
                raise AssertionError(f"{layout}, mutation {k}: {what}: {error!r}") from error
            else:
                noticed += bool(rejects.rows)
    assert noticed >= MUTATIONS // 8, "the changes must be real ones"
    for pattern, change, message in FOUND.get(layout, ()):
        path = next(p for p in sorted(source.root.parent.glob(pattern)) if not p.name.startswith("._"))
        with rewritten(path, change):
            rejects = Rejects(strict=False)
            try:
                read(source, rejects)
            except SurgR1Error as error:
                said = str(error)
            else:
                said = "\n".join(f"{r.where}: {r.reason}" for r in rejects.rows)
            assert message in said, (path.name, said[:500])
    # The tree was put right each time.
    whole = Rejects(strict=False)
    assert read(source, whole) and not whole.rows
