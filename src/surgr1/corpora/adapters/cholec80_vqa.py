"""Cholec80-VQA (reference datasets-b.md section 3): questions about the frames of Cholec80's videos 1-40, a
text file per frame. Pictures are Cholec80's (`pictures`), or the crops that users of the dataset cut.

Every question stands in two forms, with a word (Classification/) and with a sentence (Sentence/) as its
answer. One is read: Classification, or Sentence for splits that end in "-sentence"; both at once would teach
two answers to one question. The published loaders read every 100th frame: where files stand at every 25th,
`every: 4` does the same.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from surgr1.corpora.adapters.cholec80 import FPS, PROCEDURE, frame_to_seconds, pictures_top, video_pictures
from surgr1.corpora.files import LabelError, LayoutError, Pictures, Rejects, listing, read_text
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

_TOPS = ("", "Cholec80-VQA/")
_CROPS = ("cropped_image", "cropped_images")
"""What the loaders read, and what their directory_setup.txt says."""
_FILE = re.compile(r"(0|[1-9]\d{0,6})_QA\.txt", re.ASCII)
_LARGEST = 100_000
"""Characters. A frame has a handful of questions."""


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`Classification/<video>/<frame>_QA.txt` or `Sentence/...`, video and frame without leading zeros."""
    form = "Sentence" if source.split.endswith("-sentence") else "Classification"
    root = next((source.root / t for t in _TOPS if (source.root / t / form).is_dir()), None)
    if root is None:
        raise LayoutError(
            f"{source.root}: not a Cholec80-VQA tree: expected {form}/<video>/<frame>_QA.txt; found"
            f" {listing(source.root)}"
        )
    folders = {p.name: p for p in (root / form).iterdir() if re.fullmatch(r"[1-9]\d?", p.name) and p.is_dir()}
    if not folders:
        raise LayoutError(f"{root / form}: no folder of a video (1-40); found {listing(root / form)}")
    for stray in sorted((root / form).iterdir()):
        if stray.name not in folders and not stray.name.startswith((".", "__MACOSX")):
            rejects.add(stray, "expected folders named after the videos, 1-40")
    roles = source.roles(sorted(folders, key=int))
    place = _picture_place(source)

    def frames(video: str) -> Iterator[Frame]:
        folder, pattern, pictures = place(video, rejects)
        for frame, path in _files(folders[video], rejects)[:: source.every]:
            questions = _questions(path, form, rejects)
            name = pattern.format(video=int(video), frame=frame, index=frame // FPS + 1)
            size = pictures.size(name)
            if size is None or not questions:
                continue
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=f"{folder}/{name}",
                size=size,
                labels=Labels(),
                role=roles[video],
                questions=questions,
            )

    return Tree(roles, frames)


def _picture_place(source: Source) -> Callable[[str, Rejects], tuple[str, str, Pictures]]:
    """A function (video, rejects) -> folder of the video's pictures below the picture root, pattern of their
    names, what is there. Raises LayoutError.
    """
    crops = [f"{t}{c}" for t in _TOPS for c in _CROPS if (source.root / t / c).is_dir()]
    if source.pictures is None and crops:

        def cropped(video: str, rejects: Rejects) -> tuple[str, str, Pictures]:
            folder = f"{crops[0]}/{video}"
            return folder, "{frame}.png", source.folder_of_pictures(folder, rejects)

        return cropped
    top = pictures_top(source)

    def whole(video: str, rejects: Rejects) -> tuple[str, str, Pictures]:
        folder, pictures = video_pictures(source, top, f"video{int(video):02d}", rejects)
        return folder, "video{video:02d}_{index:06d}.png", pictures

    return whole


def _files(folder: Path, rejects: Rejects) -> list[tuple[int, Path]]:
    """(25-fps frame, file) in order of time; names that are not `<frame>_QA.txt` are rejected."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        match = _FILE.fullmatch(path.name)
        if match is None:
            if not path.name.startswith((".", "__MACOSX")):
                rejects.add(path, "expected <frame>_QA.txt, the frame without leading zeros")
        elif int(match[1]) % FPS:
            rejects.add(path, f"frame {match[1]} is no multiple of {FPS}: no picture shows it")
        else:
            found[int(match[1])] = path
    if not found:
        rejects.add(folder, "no <frame>_QA.txt; is the download complete?")
    return sorted(found.items())


def _questions(path: Path, form: str, rejects: Rejects) -> tuple[tuple[str, str], ...]:
    """The `question|answer` lines of a frame, each question once. Raises LabelError."""
    text = read_text(path)
    if len(text) > _LARGEST:
        raise LabelError(f"{path}: {len(text)} characters are no questions about one frame")
    if not text.strip():
        rejects.add(path, "no question")
    answers = _answers()
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line:
            continue
        question, bar, answer = line.partition("|")
        if not bar or "|" in answer or not question.strip() or not answer.strip() or not line.isprintable():
            rejects.add(f"{path}:{number}", f"expected question|answer, found {line[:80]!r}")
        elif question in found:
            rejects.add(f"{path}:{number}", f"the question stands twice: {question[:80]!r}")
        # The paper speaks of a 14th answer that no loader knows: other counts of tools are let through.
        elif form == "Classification" and answer not in answers and not answer.isdecimal():
            rejects.add(f"{path}:{number}", f"{answer[:80]!r} is none of {', '.join(sorted(answers))}")
        else:
            found[question] = answer
    return tuple(found.items())


@lru_cache(maxsize=1)
def _answers() -> frozenset[str]:
    return frozenset(vocabulary("cholec80-vqa", "answer").names)
