"""One name for every operation across datasets, and the guard that keeps evaluation videos out of training.

Cholec80, CholecT50 and Endoscapes share operations (reference datasets-a.md section 10): CholecT50 VIDnn is
Cholec80 videonn, and nine Endoscapes videos are known members of the family. The Endoscapes map is CAMMA's,
seen second-hand; its completeness rests on that.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from surgr1.corpora.schema import Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.vocabularies import layout_of

_ENDOSCAPES_TO_CHOLEC = {
    "1": 67,
    "2": 68,
    "3": 70,
    "4": 71,
    "7": 72,
    "10": 96,
    "33": 110,
    "121": 66,
    "127": 103,
}
_EXTERNAL = ("west-china", "nanfang", "renji", "strasbourg", "cuhk")


class LeakError(SurgR1Error):
    """A training video that is also in a selected evaluation set."""


def canonical_video(dataset: str, video: str) -> str:
    """The operation behind a dataset's video, e.g. "cholec/68" for Cholec80 video68 and CholecT50 VID68.

    Simulated operations live in a world of their own ("sim:…"), with the same sharing between the public
    sets.
    """
    world = "sim:" if dataset.startswith("sim-") else ""
    base = dataset.removeprefix("sim-")
    layout = layout_of(dataset)
    if base not in _EXTERNAL:
        if layout in ("cholec80", "cholect50"):
            return f"{world}cholec/{int(video.removeprefix('video').removeprefix('VID'))}"
        if layout == "endoscapes" and not world and video in _ENDOSCAPES_TO_CHOLEC:
            return f"cholec/{_ENDOSCAPES_TO_CHOLEC[video]}"
        if layout == "sar-rarp50":
            # video_11_1 and video_11_2 are two halves of one operation.
            return f"{world}sar-rarp50/{video.removeprefix('video_').split('_')[0]}"
    return f"{world}{base}/{video}"


def check_isolation(samples: Iterable[Sample]) -> None:
    """Refuse training videos that any evaluation set holds. Raises LeakError naming both sides of every
    shared operation.
    """
    places: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: {"train": set(), "evaluation": set()})
    for sample in samples:
        side = "train" if sample.role == "train" else "evaluation"
        places[sample.canonical_video][side].add(f"{sample.dataset} {sample.video}")
    leaks = {v: p for v, p in places.items() if p["train"] and p["evaluation"]}
    if leaks:
        lines = [
            f"  {', '.join(sorted(p['train']))} (training) is {', '.join(sorted(p['evaluation']))}"
            " (evaluation)"
            for _, p in sorted(leaks.items())
        ]
        raise LeakError(
            f"{len(leaks)} training operation(s) are also in an evaluation set:\n"
            + "\n".join(lines)
            + "\nChoose another split, or leave these videos out of training."
        )


@dataclass(frozen=True)
class LeakRow:
    """Operations that `train` (a dataset's training videos) shares with `evaluation` (another's evaluation
    videos).
    """

    train: str
    evaluation: str
    videos: tuple[str, ...]


def leak_matrix(roles: Iterable[tuple[str, str, str]]) -> list[LeakRow]:
    """Shared operations per pair of datasets. `roles` are (dataset, video, role)."""
    train: defaultdict[str, set[str]] = defaultdict(set)
    evaluation: defaultdict[str, set[str]] = defaultdict(set)
    for dataset, video, role in roles:
        (train if role == "train" else evaluation)[dataset].add(canonical_video(dataset, video))
    return [
        LeakRow(t, e, tuple(sorted(train[t] & evaluation[e])))
        for t in sorted(train)
        for e in sorted(evaluation)
        if train[t] & evaluation[e]
    ]
