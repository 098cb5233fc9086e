"""A labelled sheet of simulated frames to lay beside real ones."""

from pathlib import Path

from PIL import Image, ImageDraw

from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import BYPASS, CHOLECYSTECTOMY, PROSTATECTOMY, simulate_operation
from surgr1.simulator.render import draw_boxes, render

_COLUMNS, _WIDTH, _HEIGHT, _CAPTION = 4, 360, 203, 34


def contact_sheet(path: Path, *, seed: int = 1) -> Path:
    """Every phase or action of the three procedures, centres in turn, boxes on the instruments, labels below.
    Writes a PNG.
    """
    centres = list(CENTRES.values())
    tiles: list[tuple[Image.Image, str, str]] = []
    for k, procedure in enumerate((CHOLECYSTECTOMY, PROSTATECTOMY, BYPASS)):
        shown: set[str] = set()
        operation = simulate_operation(procedure, seed=seed + k, centre=centres[0], seconds=60)
        for i, scene in enumerate(operation.scenes):
            label = scene.phase or scene.action
            later = operation.scenes[min(i + 1, len(operation.scenes) - 1)]
            if label in shown or (later.phase or later.action) != label:
                continue
            shown.add(label)
            centre = centres[len(tiles) % len(centres)]
            picture = draw_boxes(render(later, centre), tuple(x.tool for x in later.instruments))
            deeds = ", ".join(
                f"{x.tool} {x.verb} {x.target}" if procedure == CHOLECYSTECTOMY else x.tool
                for x in later.instruments
            )
            cvs = f"  CVS {''.join(str(int(v)) for v in later.cvs)}" if later.cvs else ""
            tiles.append((picture.resize((_WIDTH, _HEIGHT)), f"{label}{cvs}  ({centre.name})", deeds))
    rows = -(-len(tiles) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _WIDTH, rows * (_HEIGHT + _CAPTION) + 24), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 6), "SIMULATED - not for clinical use", fill="black")
    for i, (picture, title, deeds) in enumerate(tiles):
        x, y = (i % _COLUMNS) * _WIDTH, 24 + (i // _COLUMNS) * (_HEIGHT + _CAPTION)
        sheet.paste(picture, (x, y))
        pen.text((x + 4, y + _HEIGHT + 3), title, fill="black")
        pen.text((x + 4, y + _HEIGHT + 17), deeds[:62], fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path
