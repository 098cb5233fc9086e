"""Which frames of its videos a release's labels count, and what the pictures are called (datasets-a.md 0.1,
1.1, 5.1, 7.1, 8.1-8.3; datasets-b.md 0.3, 1.1, 7.1).
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from surgr1.corpora.files import LayoutError, listing
from surgr1.corpora.video import ByTime, EveryCeiling, EveryFrame, Job, TheseFrames

_CLIP_FRAMES = (0, 8, 16, 24, 32, 40, 49, 57, 65, 74, 82, 90, 99, 107, 115, 124)
"""The 16 frames of AutoLaparo's motion benchmark, 0-based (datasets-a.md 8.3)."""


def plan_frames(layout: str, root: Path) -> list[Job]:
    """The jobs that turn the videos of a release under `root` into the pictures its labels count. Raises
    LayoutError where no videos are found or the layout has none.
    """
    plans = _plans()
    if layout not in plans:
        raise LayoutError(
            f"{layout} is released as pictures: no frames to extract; with videos: {', '.join(plans)}"
        )
    if not root.is_dir():
        raise LayoutError(f"{layout}: no folder {root}")
    looked_for, plan = plans[layout]
    jobs = list(plan(root))
    if not jobs:
        raise LayoutError(f"{root}: no videos of {layout}: looked for {looked_for}; found {listing(root)}")
    return jobs


def find_videos(root: Path) -> list[Job]:
    """`plan_frames` for the layout whose videos lie under `root`. Raises LayoutError where that is not
    exactly one.
    """
    if not root.is_dir():
        raise LayoutError(f"no folder {root}")
    found = {layout: jobs for layout, (_, plan) in _plans().items() if (jobs := list(plan(root)))}
    if len(found) != 1:
        expected = "; ".join(f"{looked_for} ({layout})" for layout, (looked_for, _) in _plans().items())
        seen = f"videos of {' and '.join(found)}: name one" if found else f"found {listing(root)}"
        raise LayoutError(f"{root}: looked for {expected}; {seen}")
    return next(iter(found.values()))


def _plans() -> dict[str, tuple[str, Callable[[Path], Iterator[Job]]]]:
    """Layout -> what is looked for and the plan."""
    return {
        "cholec80": ("videos/videoNN.mp4", _cholec80),
        "sar-rarp50": ("video_left.avi in any folder", _sar_rarp50),
        "multibypass140": (
            "BernBypass70/videos/BBPNN.mp4 or StrasBypass70/videos/SBPNN.mp4",
            _multibypass140,
        ),
        "autolaparo": ("videos/NN.mp4 or clips/NNN.mp4, here or in Task 1 * or Task 2 *", _autolaparo),
        "pitvqa": ("videos/video_NN.mp4", _pitvqa),
        "cholectrack20": ("Training|Validation|Testing/VIDNN/VIDNN.mp4", _cholectrack20),
    }


def _named(folder: Path, pattern: str) -> Iterator[Path]:
    """Files of a folder whose whole name matches, sorted; none where the folder is missing."""
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if re.fullmatch(pattern, p.name) and p.is_file())


def _cholec80(root: Path) -> Iterator[Job]:
    """Picture k (1-based) is frame 25 (k - 1) (datasets-a.md 1.1)."""
    for video in _named(root / "videos", r"video\d\d\.mp4"):
        target = root / "frames" / video.stem
        yield Job(video, target, EveryFrame(25), f"{video.stem}_{{index1:06d}}.png", rate=25)


def _sar_rarp50(root: Path) -> Iterator[Job]:
    """Every 6th frame under its number, beside the video in rgb/ (the tool) or frames/ (the README)
    (datasets-b.md 1.1).
    """
    for video in sorted(root.rglob("video_left.avi")):
        folder = "frames" if (video.parent / "frames").is_dir() else "rgb"
        yield Job(video, video.parent / folder, EveryFrame(6), "{frame:09d}.png", rate=60)


def _multibypass140(root: Path) -> Iterator[Job]:
    """FFmpeg's fps=1, counted from 1 (datasets-a.md 5.1)."""
    for centre in ("BernBypass70", "StrasBypass70"):
        for video in _named(root / centre / "videos", r"[BS]BP\d+\.mp4"):
            target = root / centre / "frames" / video.stem
            yield Job(video, target, ByTime(1, "nearest"), f"{video.stem}_{{index1:08d}}.jpg")


def _autolaparo(root: Path) -> Iterator[Job]:
    """Task 1: every 25th frame as frames/NN/KKKK.jpg from 1; Task 2: 16 frames of a clip as
    frames/NNN/KKK.jpg under their numbers from 1 (datasets-a.md 8.2, 8.3; names as the benchmark's tools
    give).
    """
    for folder in sorted(p for p in (root, *root.iterdir()) if p.is_dir()):
        for video in _named(folder / "videos", r"\d\d\.mp4"):
            target = folder / "frames" / video.stem
            yield Job(video, target, EveryFrame(25), "{index1:04d}.jpg", rate=25)
        for video in _named(folder / "clips", r"\d{3}\.mp4"):
            target = folder / "frames" / video.stem
            yield Job(
                video,
                target,
                TheseFrames(_CLIP_FRAMES),
                "{frame1:03d}.jpg",
                expected=len(_CLIP_FRAMES),
                rate=25,
            )


def _pitvqa(root: Path) -> Iterator[Job]:
    """Every ceil(rate)-th frame, counted from 0 (datasets-b.md 7.1)."""
    for video in _named(root / "videos", r"video_\d\d\.mp4"):
        yield Job(video, root / "images" / video.stem, EveryCeiling(), "{index:05d}.png")


def _cholectrack20(root: Path) -> Iterator[Job]:
    """Frames n = 1, 26, 51, ... counted from 1, in Frames/ beside the video (datasets-a.md 7.1)."""
    splits = (p for p in root.iterdir() if p.name.lower() in ("training", "validation", "testing"))
    for split in sorted(p for p in splits if p.is_dir()):
        for folder in sorted(f for f in split.iterdir() if f.is_dir()):
            for video in _named(folder, r"(?i)vid\d+\.mp4"):
                yield Job(video, folder / "Frames", EveryFrame(25), "{frame1:06d}.png", rate=25)
