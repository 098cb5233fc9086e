"""EndoVis-18-VQLA (reference datasets-b.md section 12): the questions of EndoVis-18-VQA with a box each.

The places ("left-top") are kept as given and never compared with the boxes: in the extended sets they are
mostly mirrored top to bottom (12.5).
"""

from surgr1.corpora.adapters._endovis import Item, fitted
from surgr1.corpora.adapters.endovis18_vqa import open_sequences, tools_of, verbs_of
from surgr1.corpora.files import Rejects
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`seq_N/vqla/label/frameKKK_QA.txt`, or directly in `vqla/`."""
    return open_sequences(source, rejects, ("vqla/label", "vqla"), boxed_labels, boxed=True)


def boxed_labels(layout: str, items: list[Item], size: tuple[int, int]) -> Labels:
    """Tools, the organ, and their boxes. A tool whose questions have different boxes has them all: it is
    there more than once. The boxes of "What is the tool in ...?" belong to another family of answers and are
    left out.
    """
    boxes = dict.fromkeys((i.subject, i.box) for i in items if i.kind != "tool" and i.box is not None)
    return Labels(
        tools=tools_of(layout, items),
        tissues=tuple(dict.fromkeys(i.subject for i in items if i.kind == "organ")) or None,
        verbs=verbs_of(layout, items),
        boxes=tuple(LabelledBox(name, fitted(box, size)) for name, box in boxes),
    )
