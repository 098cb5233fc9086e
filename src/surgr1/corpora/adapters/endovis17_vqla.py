"""EndoVis-17-VQLA (reference datasets-b.md section 12): 97 frames of the EndoVis 2017 challenge with
questions and boxes; pictures are shipped. An external test of EndoVis-18-VQLA.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

from surgr1.corpora.adapters._endovis import PORCINE, asked_once, not_a_tree, read_items, unlabelled
from surgr1.corpora.adapters.endovis17 import frame_to_seconds
from surgr1.corpora.adapters.endovis18_vqla import boxed_labels
from surgr1.corpora.files import LabelError, Rejects, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.sources import Source, Tree

_FILE = re.compile(r"seq0*(\d+)_frame(\d{1,6})\.txt")
_PLACES = ("vqla/label", "vqla")


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`left_frames/seqN_frameKKK.jpg` with `vqla/label/seqN_frameKKK.txt`, or the texts directly in
    `vqla/`.
    """
    tops = [source.root, source.root / "EndoVis-17-VQLA"]
    labels = next((t / p for t in tops for p in _PLACES if any((t / p).glob("seq*.txt"))), None)
    if labels is None:
        wanted = " or ".join(f"{p}/seqN_frameKKK.txt" for p in _PLACES) + " with left_frames/"
        raise not_a_tree(source.root, "an EndoVis-17-VQLA tree", wanted)
    top = labels.parent.parent if labels.name == "label" else labels.parent
    left = (top / "left_frames").relative_to(source.root).as_posix()
    files: defaultdict[int, dict[int, str]] = defaultdict(dict)
    for path in visible(labels.glob("*.txt")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            rejects.add(path, "not named seqN_frameKKK.txt")
            continue
        frames_of = files[int(match[1])]
        if int(match[2]) in frames_of:
            rejects.add(path, f"frame {int(match[2])} stands twice (also {frames_of[int(match[2])]})")
            continue
        frames_of[int(match[2])] = path.name
    roles = source.roles(f"seq{n}" for n in sorted(files))

    def frames(video: str) -> Iterator[Frame]:
        pictures = source.folder_of_pictures(left, rejects)
        found = files[int(video.removeprefix("seq"))]
        if source.images == "check":
            pattern = re.compile(rf"{video}_frame(\d{{1,6}})\.jpg")
            unlabelled(source.root / left, pattern, found, rejects)
        for number in sorted(found)[:: source.every]:
            path = labels / found[number]
            picture = f"{path.stem}.jpg"
            size = pictures.size(picture)
            if size is None:
                continue
            try:
                items = read_items(path, source.layout, boxed=True)
            except (LabelError, ValueError) as error:
                rejects.add(path, str(error).removeprefix(f"{path}: "))
                continue
            yield Frame(
                source,
                procedure=PORCINE,
                video=video,
                frame=number,
                seconds=frame_to_seconds(number),
                image=f"{left}/{picture}",
                size=size,
                labels=boxed_labels(source.layout, items, size),
                role=roles[video],
                questions=asked_once(items, path, rejects),
                asks_places=False,
            )

    return Tree(roles, frames)
