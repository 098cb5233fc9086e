"""Endoscapes2023 second by second (reference datasets-a.md section 4): the critical view of safety of the
last keyframe, on every frame of `annotation_coco_vid.json`. Same tree as `endoscapes`, which has the boxes.
"""

from surgr1.corpora.adapters.endoscapes import read_tree
from surgr1.corpora.files import Rejects
from surgr1.corpora.sources import Source, Tree


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """Every frame that `annotation_coco_vid.json` lists (pictures that it lacks have no label)."""
    return read_tree(source, rejects, "annotation_coco_vid.json", boxed=False)
