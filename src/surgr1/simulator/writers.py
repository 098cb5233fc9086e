"""Simulated operations as native trees: byte layouts as the real releases have them (reference datasets-a.md,
datasets-b.md).

A video is written by `write_video`, which returns what the tree-wide label files need; `finish_tree` writes
those. Labels hold only what the renderer shows. The key "truth" of what a writer returns is no part of any
tree: the whole scene of every stored frame (`truth.py`).
"""

import csv
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.canvas import Box
from surgr1.simulator.instruments import SHAFT
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import FIRST_INSTRUMENT, Rendered, render
from surgr1.simulator.scene import Centre, Instrument, Scene
from surgr1.simulator.truth import frame_truth

NOTICE = "Simulated data made by surgr1. No patient, no real operation. Not for clinical use.\n"
Split = Mapping[str, tuple[int, ...]]
"""Role (train, val, test) -> video numbers, for layouts whose tree states its split."""

_ENDOSCAPES_RATERS = (0.4, 0.5, 0.6)
"""Three raters see a criterion met at these degrees; their majority is the simulator's own threshold of
0.5.
"""


def _frames(
    operation: Operation, centre: Centre
) -> Iterator[tuple[int, Scene, Rendered, list[tuple[Instrument, Box]]]]:
    """(index, scene, picture, instruments one can see) of every labelled frame."""
    for index, scene in enumerate(operation.scenes):
        drawn = render(scene, centre)
        seen = [
            (i, b) for i, b in zip(scene.instruments, drawn.instrument_boxes, strict=True) if b is not None
        ]
        yield index, scene, drawn, seen


def _save(pixels: NDArray[np.uint8], path: Path, quality: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if quality is None:
        picture.save(path, compress_level=1)
    else:
        picture.save(path, quality=quality)


def cholec80_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`frames/videoNN/videoNN_KKKKKK.png` (1-based, 1 fps), phase rows at 25 fps, tool rows every 25th
    (datasets-a.md 1.1, 1.2).
    """
    name = f"video{number:02d}"
    tools, phases = vocabulary("cholec80", "tool"), vocabulary("cholec80", "phase")
    tool_rows = ["Frame\t" + "\t".join(tools.native)]
    phase_rows = ["Frame\tPhase"]
    truth = []
    for index, scene, drawn, seen in _frames(operation, centre):
        truth.append(frame_truth(name, 25 * index, scene, drawn, centre))
        _save(drawn.image, root / "frames" / name / f"{name}_{index + 1:06d}.png")
        present = {i.tool for i, _ in seen} | ({"specimen bag"} & set(drawn.tissue_boxes))
        tool_rows.append(f"{25 * index}\t" + "\t".join(str(int(t in present)) for t in tools.names))
        phase_rows += [f"{25 * index + k}\t{phases.to_native(scene.phase)}" for k in range(25)]
    # The real phase file is one 1-fps sample longer than the tool file.
    phase_rows.append(f"{25 * len(operation.scenes)}\t{phase_rows[-1].split(chr(9))[1]}")
    for folder, suffix, rows in (
        ("phase_annotations", "phase", phase_rows),
        ("tool_annotations", "tool", tool_rows),
    ):
        path = root / folder / f"{name}-{suffix}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"frames": len(operation.scenes), "truth": truth}


def cholect50_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`videos/VIDNN/KKKKKK.png` (0-based, 1 fps) and `labels/VIDNN.json` with 15-element vectors
    (datasets-a.md 3.1, 3.2).

    Like the challenge-validation clips, and unlike the full release, instrument boxes are given.
    """
    name = f"VID{number:02d}"
    words = {k: vocabulary("cholect50", k) for k in ("tool", "verb", "target", "phase", "triplet")}
    annotations: dict[str, list[list[float]]] = {}
    truth = []
    for index, scene, drawn, seen in _frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        _save(drawn.image, root / "videos" / name / f"{index:06d}.png")
        height, width = drawn.image.shape[:2]
        phase = words["phase"].ids[scene.phase]
        rows: list[list[float]] = []
        for instrument, (x1, y1, x2, y2) in seen:
            triplet = words["triplet"].ids[f"{instrument.tool} {instrument.verb} {instrument.target}"]
            box = [round(v, 5) for v in (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)]
            verb, target = words["verb"].ids[instrument.verb], words["target"].ids[instrument.target]
            rows.append(
                [
                    triplet,
                    words["tool"].ids[instrument.tool],
                    1.0,
                    *box,
                    verb,
                    target,
                    1.0,
                    -1.0,
                    -1.0,
                    -1.0,
                    -1.0,
                    phase,
                ]
            )
        annotations[str(index)] = rows or [
            [-1, -1, -1.0, -1.0, -1.0, -1.0, -1.0, -1, -1, -1.0, -1.0, -1.0, -1.0, -1.0, phase]
        ]
    categories = {
        {"tool": "instrument"}.get(kind, kind): {str(i): n for i, n in enumerate(v.native)}
        for kind, v in words.items()
    }
    body = {
        "info": {
            "dataset": "sim-cholect50",
            "description": NOTICE.strip(),
            "version": 2.0,
            "bbox format": "[x1,y1,bw,bh] == [top_left_x, top_left_y, box_width, box_height]",
        },
        "licenses": {"id": 1, "name": "Apache-2.0"},
        "categories": categories,
        "video": number,
        "fps": 1,
        "num_frames": len(operation.scenes),
        "annotations": annotations,
    }
    path = root / "labels" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")
    return {"frames": len(operation.scenes), "truth": truth}


def endoscapes_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`<split>/<vid>_<25-fps frame>.jpg`; the COCO records go back to `finish_tree` (datasets-a.md 4.1,
    4.2).
    """
    role = next(r for r, numbers in split.items() if number in numbers)
    ids = vocabulary("endoscapes", "tissue").ids
    images, annotations, truth = [], [], []
    wanted = [k for k, s in enumerate(operation.scenes) if s.phase == "calot triangle dissection"]
    for index, scene, drawn, seen in _frames(
        Operation(operation.procedure, operation.rate, tuple(operation.scenes[k] for k in wanted)), centre
    ):
        frame = 25 * 5 * (index + 20)
        file_name = f"{number}_{frame}.jpg"
        _save(drawn.image, root / role / file_name, centre.jpeg)
        truth.append(frame_truth(str(number), frame, scene, drawn, centre))
        a = scene.anatomy
        degrees = (a.two_structures, a.window, a.plate)  # type: ignore[union-attr]  # this phase exists in cholecystectomy alone
        raters = [[float(d >= t) for d in degrees] for t in _ENDOSCAPES_RATERS]
        ds = [round(sum(r[c] for r in raters) / 3, 3) for c in range(3)]
        image_id = number * 1_000_000 + frame
        images.append(
            {
                "file_name": file_name,
                "height": drawn.image.shape[0],
                "width": drawn.image.shape[1],
                "id": image_id,
                "video_id": number,
                "frame_id": None,
                "ds": ds,
                "is_ds_keyframe": True,
                "is_det_keyframe": True,
                "raters": raters,
            }
        )
        boxes = [(ids[n], b) for n, b in drawn.tissue_boxes.items() if n in ids] + [(6, b) for _, b in seen]
        for category, (x1, y1, x2, y2) in boxes:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "frames": len(images),
        "role": role,
        "images": images,
        "annotations": annotations,
        "truth": truth,
    }


def _finish_endoscapes(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    words = vocabulary("endoscapes", "tissue")
    categories = [{"id": i, "name": words.to_native(n)} for n, i in words.ids.items()] + [
        {"id": 6, "name": "tool"}
    ]
    metadata: list[list[Any]] = [
        [
            "vid",
            "frame",
            "avg_cvs",
            "C1",
            "C2",
            "C3",
            "is_ds_keyframe",
            "cvs_annotator_1",
            "cvs_annotator_2",
            "cvs_annotator_3",
            "mask_path",
            "label_path",
        ]
    ]
    for role, numbers in split.items():
        images = [dict(i) for n in numbers for i in videos[n]["images"]]
        annotations = [a for n in numbers for a in videos[n]["annotations"]]
        for image in images:
            raters = image.pop("raters")
            frame = image["id"] % 1_000_000
            metadata.append(
                [
                    image["video_id"],
                    frame,
                    sum(image["ds"]) / 3,
                    *image["ds"],
                    True,
                    *map(str, raters),
                    "",
                    "",
                ]
            )
        for k, annotation in enumerate(annotations):
            annotation["id"] = k + 1
        bodies = {
            "annotation_coco.json": (images, annotations),
            "annotation_ds_coco.json": (images, []),
            "annotation_coco_vid.json": (images, annotations),
        }
        for name, (i, a) in bodies.items():
            body = {
                "info": {"description": NOTICE.strip()},
                "images": i,
                "annotations": a,
                "categories": categories,
            }
            (root / role / name).write_text(json.dumps(body), encoding="utf-8")
        (root / f"{role}_vids.txt").write_text("".join(f"{n:.18e}\n" for n in numbers), encoding="utf-8")
    with (root / "all_metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(metadata)
    (root / "seg_label_map.txt").write_text(
        "background\n" + "".join(f"{c['name']}\n" for c in categories), encoding="utf-8"
    )


def _mask(drawn: Rendered, scene: Scene) -> NDArray[np.uint8]:
    """One channel, pixel value = class (datasets-b.md 1.3): 1 clasper (drawn in one with the wrist, 2), 3
    shaft, 4 needle, 5 thread, 6 suction tool.
    """
    classes = np.zeros(256, np.uint8)
    classes[IDS["needle"]], classes[IDS["thread"]] = 4, 5
    for k, instrument in enumerate(scene.instruments):
        tip = FIRST_INSTRUMENT + k
        classes[[tip, tip + SHAFT]] = (6, 6) if instrument.tool == "suction" else (1, 3)
    return classes[drawn.ids]


def sar_rarp50_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`video_NN/rgb/<60-fps frame>.png` every 6th frame, `segmentation/<frame>.png` every 60th,
    `action_discrete.txt`, `action_continuous.txt` (datasets-b.md 1.1, 1.2).

    The frames are as the challenge's toolkit unpacks them from `video_left.avi`, which is not written.
    """
    folder = root / f"video_{number:02d}"
    ids = vocabulary("sar-rarp50", "action").ids
    labels: list[int] = []
    truth = []
    for index, scene, drawn, _ in _frames(operation, centre):
        truth.append(frame_truth(folder.name, 6 * index, scene, drawn, centre))
        _save(drawn.image, folder / "rgb" / f"{6 * index:09d}.png")
        if index % 10 == 0:
            _save(_mask(drawn, scene), folder / "segmentation" / f"{6 * index:09d}.png")
        labels.append(ids[scene.action])
    (folder / "action_discrete.txt").write_text(
        "".join(f"{6 * i:09d},{a}\n" for i, a in enumerate(labels)), encoding="utf-8"
    )
    runs, start = [], 0
    for action, members in groupby(labels):
        length = len(list(members))
        runs.append(f"{6 * start},{6 * (start + length - 1)},{action}\n")
        start += length
    (folder / "action_continuous.txt").write_text("".join(runs), encoding="utf-8")
    return {"frames": len(labels), "truth": truth}


def multibypass140_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`BernBypass70/frames/BBPNN/BBPNN_KKKKKKKK.jpg` (1-based, 1 fps) and `BBPNN.mp4.json` in milliseconds
    (datasets-a.md 5.1, 5.2).
    """
    name = f"BBP{number:02d}"
    rows, truth = [], []
    for index, scene, drawn, _ in _frames(operation, centre):
        truth.append(frame_truth(name, index + 1, scene, drawn, centre))
        _save(
            drawn.image, root / "BernBypass70" / "frames" / name / f"{name}_{index + 1:08d}.jpg", centre.jpeg
        )
        rows.append((scene.phase, scene.step))
    body: dict[str, list[dict[str, Any]]] = {}
    ids: dict[str, list[int]] = {}
    for kind, column in (("phase", 0), ("step", 1)):
        words = vocabulary("multibypass140", kind)
        start = 0
        body[f"{kind}s"] = []
        for label, members in groupby(r[column] for r in rows):
            end = start + len(list(members))
            interval = {
                "start": 1000 * start,
                "end": 1000 * end,
                "label_name": words.to_native(label),
                "label_id": words.ids[label],
            }
            body[f"{kind}s"].append(interval)
            start = end
        ids[kind] = [words.ids[r[column]] for r in rows]
    path = root / "labels" / "bern" / "labels_by70" / f"{name}.mp4.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")
    return {"frames": len(rows), "phase": ids["phase"], "step": ids["step"], "truth": truth}


def _finish_multibypass140(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    for kind in ("phase", "step"):
        path = root / "tables" / f"{kind}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = vocabulary("multibypass140", kind).native
        path.write_text("id, name\n" + "".join(f"{i}, {n}\n" for i, n in enumerate(names)), encoding="utf-8")
    folder = root / "labels" / "bern" / "labels_by70_splits" / "labels"
    for role, stem in (("train", "1fps_100_0"), ("val", "1fps_0"), ("test", "1fps_0")):
        table = {
            f"BBP{n:02d}": [
                {
                    "Frame_id": f"BBP{n:02d}_{i + 1:08d}",
                    "Original_frame_id": i,
                    "Phase_gt": p,
                    "Step_gt": s,
                    "unique_id": n * 10**10 + i,
                }
                for i, (p, s) in enumerate(zip(videos[n]["phase"], videos[n]["step"], strict=True))
            ]
            for n in split.get(role, ())
        }
        (folder / role).mkdir(parents=True, exist_ok=True)
        (folder / role / f"{stem}.pickle").write_bytes(pickle.dumps(table))


VideoWriter = Callable[[Path, int, Operation, Centre, Split], dict[str, Any]]
WRITERS: dict[str, VideoWriter] = {
    "cholec80": cholec80_video,
    "cholect50": cholect50_video,
    "endoscapes": endoscapes_video,
    "sar-rarp50": sar_rarp50_video,
    "multibypass140": multibypass140_video,
}


def finish_tree(layout: str, root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """Write the label files that describe the whole tree, and the notice that it is simulated."""
    if layout == "endoscapes":
        _finish_endoscapes(root, videos, split)
    elif layout == "multibypass140":
        _finish_multibypass140(root, videos, split)
    elif layout == "cholect50":
        words = vocabulary("cholect50", "triplet")
        tools, verbs, targets = (vocabulary("cholect50", k) for k in ("tool", "verb", "target"))
        rows = ["IVT,I,V,T,IV,IT"]
        for k, native in enumerate(words.native):
            i, v, t = (
                x.native.index(p) for x, p in zip((tools, verbs, targets), native.split(","), strict=True)
            )
            rows.append(f"{k},{i},{v},{t},{i * 10 + v},{i * 15 + t}")
        (root / "label_mapping.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "SIMULATED.txt").write_text(NOTICE, encoding="utf-8")
