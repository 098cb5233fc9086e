"""EndoVis-18-VQA (reference datasets-b.md section 2): questions about the organ, the state and the place of
each tool, on frames of the EndoVis 2018 challenge.

The answers to "Where is ...?" may be upside down (2.5): they are kept as given, and never compared with
boxes.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from surgr1.corpora.adapters._endovis import (
    NEPHRECTOMY,
    Item,
    asked_once,
    left_folder,
    not_a_tree,
    numbered,
    read_items,
    sequences,
)
from surgr1.corpora.adapters.endovis18 import frame_to_seconds
from surgr1.corpora.datasets import dataset
from surgr1.corpora.files import LabelError, LayoutError, Rejects, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

_FILE = re.compile(r"frame(\d{1,6})_QA\.txt")


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`seq_N/vqa/Classification/frameKKK_QA.txt`."""
    return open_sequences(source, rejects, ("vqa/Classification",), _labels, boxed=False)


def open_sequences(
    source: Source,
    rejects: Rejects,
    places: tuple[str, ...],
    labels_of: Callable[[str, list[Item], tuple[int, int]], Labels],
    *,
    boxed: bool,
) -> Tree:
    """The tree of question files in one of `places` of every sequence. The pictures lie beside them, or are
    the challenge's in `source.pictures`.
    """
    layout, root = source.layout, source.root
    folders: dict[str, Path] = {}
    for video, folder in sequences(root).items():
        found = [folder / p for p in places if (folder / p).is_dir()]
        if found and not video.startswith("test/"):
            folders[video] = found[0]
        elif video in dataset(layout).videos:
            rejects.add(folder, f"a sequence without {' or '.join(places)}; is the download complete?")
    if not folders:
        raise not_a_tree(root, f"an {layout} tree", " or ".join(f"seq_N/{p}/frameKKK_QA.txt" for p in places))
    roles = source.roles(folders)
    shown = _left_views(source, roles)

    def frames(video: str) -> Iterator[Frame]:
        pictures = source.folder_of_pictures(shown[video], rejects)
        found = numbered(folders[video], _FILE, rejects)
        for path in visible(folders[video].glob("*")):
            if path.is_file() and not _FILE.fullmatch(path.name) and not path.name.startswith("."):
                rejects.add(path, "expected frameKKK_QA.txt")
        if not found:
            rejects.add(folders[video], "no frameKKK_QA.txt; is the download complete?")
        for number, name in list(found.items())[:: source.every]:
            path = folders[video] / name
            picture = f"{name.partition('_')[0]}.png"
            size = pictures.size(picture)
            if size is None:
                continue
            try:
                items = read_items(path, layout, boxed=boxed)
            except (LabelError, ValueError) as error:
                rejects.add(path, str(error).removeprefix(f"{path}: "))
                continue
            yield Frame(
                source,
                procedure=NEPHRECTOMY,
                video=video,
                frame=number,
                seconds=frame_to_seconds(number),
                image=f"{shown[video]}/{picture}",
                size=size,
                labels=labels_of(layout, items, size),
                role=roles[video],
                questions=asked_once(items, path, rejects),
                asks_places=False,
            )

    return Tree(roles, frames)


def _left_views(source: Source, videos: Iterable[str]) -> dict[str, str]:
    """Video -> folder of its pictures relative to the picture root. Raises LayoutError."""
    base = source.picture_root
    known = {v: f for v, f in sequences(base).items() if not v.startswith("test/")} if base.is_dir() else {}
    found: dict[str, str] = {}
    for video in videos:
        folder = known.get(video, base / video)
        left = folder / left_folder(folder)
        if source.images == "check" and not left.is_dir():
            raise LayoutError(
                f"{left}: no such folder: the pictures of {source.layout} are those of the EndoVis 2018"
                " challenge; give its folder as `pictures`, or put left_frames/ beside the questions"
            )
        found[video] = left.relative_to(base).as_posix()
    return found


def tools_of(layout: str, items: list[Item]) -> tuple[str, ...]:
    """The tools a frame is asked about, which are those in view, in the vocabulary's order."""
    asked = {i.subject for i in items if i.kind in ("state", "place")}
    return tuple(t for t in vocabulary(layout, "tool").names if t in asked)


def verbs_of(layout: str, items: list[Item]) -> tuple[str, ...]:
    """What the tools do ("idle" included), in the vocabulary's order."""
    done = {i.answer for i in items if i.kind == "state"}
    return tuple(v for v in vocabulary(layout, "verb").names if v in done)


def _labels(layout: str, items: list[Item], size: tuple[int, int]) -> Labels:
    return Labels(tools=tools_of(layout, items), verbs=verbs_of(layout, items))
