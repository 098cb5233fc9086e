"""What one stored frame shows, whole: beside a native tree, which holds only what the real dataset labels.

`<sim>/truth/<dataset>.parquet`, one row per stored frame, keyed as the corpora adapters name it
(`Sample.dataset`, `Sample.video`, `Sample.frame`). It lies outside the native trees: nothing that reads a
tree sees it, and nothing trains on it. `bench.statements.read_truth` reads it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from surgr1.simulator.anatomy import IDS
from surgr1.simulator.canvas import SUPERSAMPLE, Canvas, smooth
from surgr1.simulator.geometry import artery_end, duct_end, mix
from surgr1.simulator.render import FIRST_INSTRUMENT, Rendered
from surgr1.simulator.scene import Centre, Cholecystectomy, Field, Scene

FOLDER = "truth"
_BOX = pa.list_(pa.float32(), 4)
TRUTH_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("centre", pa.string()),
        ("procedure", pa.string()),
        ("video", pa.string()),
        ("frame", pa.int64()),
        ("seconds", pa.float64()),
        # Size of the stored picture and boxes (x1, y1, x2, y2) in its pixels.
        ("width", pa.int32()),
        ("height", pa.int32()),
        # Instruments whose working end one can see. `verb` and `target` are null where the simulation of the
        # procedure gives instruments no deeds; "null verb" is idle.
        (
            "instruments",
            pa.list_(
                pa.struct(
                    [("tool", pa.string()), ("box", _BOX), ("verb", pa.string()), ("target", pa.string())]
                )
            ),
        ),
        # Tissues and things (needle, thread, bag, drain) of which enough pixels show.
        ("tissues", pa.list_(pa.struct([("name", pa.string()), ("box", _BOX)]))),
        # Null where the procedure has none.
        ("phase", pa.string()),
        ("step", pa.string()),
        ("action", pa.string()),
        ("cvs", pa.list_(pa.bool_(), 3)),
        # The scene's anatomy and effects (fields of scene.py) as JSON, with `clips_seen` of a
        # cholecystectomy, and of a field the camera's `motion` and the `directions` of `instruments`.
        ("state", pa.string()),
    ]
)


def frame_truth(video: str, frame: int, scene: Scene, drawn: Rendered, centre: Centre) -> dict[str, Any]:
    """One row of `TRUTH_SCHEMA` without the dataset, as plain JSON values."""
    height, width = drawn.image.shape[:2]
    acts = isinstance(scene.anatomy, Cholecystectomy) or (
        isinstance(scene.anatomy, Field) and scene.anatomy.deeds
    )
    state = asdict(scene.anatomy) | asdict(scene.effects)
    if isinstance(scene.anatomy, Cholecystectomy):
        state["clips_seen"] = clips_seen(scene.anatomy, scene.seed, drawn.ids, centre)
    if isinstance(scene.anatomy, Field):
        seen = zip(scene.instruments, drawn.instrument_boxes, strict=True)
        state |= {"motion": scene.motion, "directions": [i.direction for i, box in seen if box is not None]}
    return {
        "centre": centre.name,
        "procedure": scene.procedure,
        "video": video,
        "frame": frame,
        "seconds": scene.seconds,
        "width": width,
        "height": height,
        "instruments": [
            {
                "tool": i.tool,
                "box": list(box),
                "verb": i.verb if acts else None,
                "target": i.target if acts else None,
            }
            for i, box in zip(scene.instruments, drawn.instrument_boxes, strict=True)
            if box is not None
        ],
        "tissues": [{"name": n, "box": list(box)} for n, box in drawn.tissue_boxes.items()],
        "phase": scene.phase or None,
        "step": scene.step or None,
        "action": scene.action or None,
        "cvs": None if scene.cvs is None else list(scene.cvs),
        "state": json.dumps(state),
    }


def clips_seen(a: Cholecystectomy, seed: int, ids: NDArray[np.uint8], centre: Centre) -> int:
    """How many clips lie open to view: at least half of a clip's length is inside the scope and under neither
    an instrument nor gallbladder nor bag. Clips have no mask of their own (no dataset labels them), so their
    places are those of `anatomy._tubes`.
    """
    if a.detachment >= 1.0 and a.bag != "none":
        return 0
    seen = 0
    canvas: Canvas | None = None
    for end, width, clips in (
        (artery_end(a), 0.016, a.artery_clips),
        (duct_end(a), 0.034, a.duct_clips),
    ):
        start = (a.neck[0] + 0.01, a.neck[1] + 0.02)
        bend = mix(start, end, 0.5)
        path = smooth([start, (bend[0] + 0.015, bend[1] - 0.02), end], closed=False)
        for k in range(clips):
            canvas = canvas or Canvas(centre, seed)
            x, y = path[round((0.30 + 0.22 * k) * (len(path) - 1))]
            points = [
                canvas.px((x + t * width * 0.9, y - t * 0.03)) for t in (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)
            ]
            seen += sum(_open(ids, *p) for p in points) >= 3
    return seen


_COVERS = (0, IDS["gallbladder"], IDS["specimen bag"])


def _open(ids: NDArray[np.uint8], x: float, y: float) -> bool:
    """Whether a point in pixels of the supersampled picture is inside the view and uncovered."""
    column, row = int(x // SUPERSAMPLE), int(y // SUPERSAMPLE)
    if not (0 <= row < ids.shape[0] and 0 <= column < ids.shape[1]):
        return False
    ident = int(ids[row, column])
    return ident not in _COVERS and ident < FIRST_INSTRUMENT


def write_truth(path: Path, dataset: str, rows: Iterable[Mapping[str, Any]], notice: str) -> None:
    """Write one dataset's file atomically; its metadata says that it is simulated."""
    schema = TRUTH_SCHEMA.with_metadata({"simulated": "true", "notice": notice.strip()})
    table = pa.Table.from_pylist([{"dataset": dataset} | dict(r) for r in rows], schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)
