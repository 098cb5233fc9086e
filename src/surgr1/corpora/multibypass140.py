"""MultiBypass140 (reference datasets-a.md section 5): phases and steps of gastric bypass from two centres."""

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from surgr1.corpora.grid import image_size
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels, Role, Sample
from surgr1.corpora.sources import LabelError, LayoutError, Source, listing
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "laparoscopic roux-en-y gastric bypass"
_CENTRES = {"bern": ("BernBypass70", "BBP"), "strasbourg": ("StrasBypass70", "SBP")}
_OVERLAYS = (12, 13)
"""out_of_body and severe_index lie over the phase that is in force."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-based picture number at 1 fps."""
    return float(frame - 1)


class _Unpickler(pickle.Unpickler):
    """Admits plain containers, numbers and strings: the released pickles hold nothing else."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise LabelError(
            f"a pickle that asks for {module}.{name} is refused: the released ones hold plain data only"
        )


def load_pickle(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A split pickle: video -> rows. Raises LabelError on anything but plain data."""
    try:
        table = _Unpickler(io.BytesIO(path.read_bytes())).load()
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, IndexError, KeyError) as error:
        raise LabelError(f"{path}: not a readable pickle: {error!r}") from error
    if not isinstance(table, dict) or not all(
        isinstance(k, str) and isinstance(v, list) for k, v in table.items()
    ):
        raise LabelError(f"{path}: expected a dict of video -> rows, found {type(table).__name__}")
    return table


def _split(labels: Path, fold: str) -> dict[str, Role]:
    """Video -> role in one fold, from the keys of the user's own pickles (the lists are published nowhere
    else).
    """
    k = "0" if fold == "default" else fold
    folder = labels / "labels_by70_splits" / "labels"
    roles: dict[str, Role] = {}
    named: tuple[tuple[Role, str], ...] = (
        ("train", f"train/1fps_100_{k}"),
        ("validation", f"val/1fps_{k}"),
        ("test", f"test/1fps_{k}"),
    )
    for role, name in named:
        path = folder / f"{name}.pickle"
        if not path.is_file():
            raise LayoutError(
                f"{path}: fold {k} has no such file; copy labels_by70_splits/ from the dataset's repository"
            )
        for video in load_pickle(path):
            if roles.setdefault(video, role) != role:
                raise LabelError(f"{path}: {video} is also in {roles[video]} of fold {k}")
    return roles


def read(source: Source) -> Iterator[Sample]:
    """Samples of `<Centre>Bypass70/frames/` with `labels/<centre>/labels_by70/*.json`. `source.split` is the
    fold ("0" by default).
    """
    centres = [c for c in _CENTRES if (source.root / "labels" / c / "labels_by70").is_dir()]
    if not centres:
        raise LayoutError(
            f"{source.root}: not a MultiBypass140 tree: no labels/bern|strasbourg/labels_by70; found"
            f" {listing(source.root)}"
        )
    for centre in centres:
        labels_dir = source.root / "labels" / centre
        roles = {} if source.role or source.train or source.test else _split(labels_dir, source.split)
        for path in sorted((labels_dir / "labels_by70").glob("*.mp4.json")):
            video = path.name.removesuffix(".mp4.json")
            role = source.role_of(video, roles)
            if role is None:
                continue
            folder = source.root / _CENTRES[centre][0] / "frames" / video
            size: tuple[int, int] | None = None
            rows = label_rows(path)
            for index in range(0, len(rows), source.every):
                phase, step = rows[index]
                if phase is None:
                    continue
                image = folder / f"{video}_{index + 1:08d}.jpg"
                if size is None or not image.is_file():
                    size = image_size(image)
                yield from Frame(
                    source,
                    centre=source.centre or centre,
                    procedure=PROCEDURE,
                    video=video,
                    frame=index + 1,
                    seconds=frame_to_seconds(index + 1),
                    image=image.relative_to(source.root).as_posix(),
                    size=size,
                    labels=Labels(phase=phase, step=step),
                    role=role,
                ).samples()


def label_rows(path: Path) -> list[tuple[str | None, str | None]]:
    """(phase, step) at second 0, 1, 2, …: index i has label p iff start // 1000 <= i < end // 1000, overlays
    ignored (datasets-a.md 5.2).
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        columns = {
            kind: [i for i in body[f"{kind}s"] if kind == "step" or i["label_id"] not in _OVERLAYS]
            for kind in ("phase", "step")
        }
        length = max((i["end"] // 1000 for rows in columns.values() for i in rows), default=0)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{path}: not a MultiBypass140 label file: {error!r}") from error
    found: dict[str, list[str | None]] = {}
    for kind, intervals in columns.items():
        words = vocabulary("multibypass140", kind)
        labels: list[str | None] = [None] * length
        for interval in intervals:
            number, name = interval["label_id"], interval["label_name"]
            if (
                not (isinstance(number, int) and 0 <= number < len(words.native))
                or words.native[number] != name
            ):
                raise LabelError(
                    f"{path}: {kind} {number} is named {name!r}; the dataset's table says otherwise"
                )
            if interval["end"] < interval["start"]:
                raise LabelError(
                    f"{path}: {kind} {name} ends at {interval['end']} ms, before its start"
                    f" {interval['start']} ms"
                )
            start, end = interval["start"] // 1000, interval["end"] // 1000
            labels[start:end] = [words.names[number]] * (end - start)
        found[kind] = labels
    return list(zip(found["phase"], found["step"], strict=True))
