"""A labelled sheet of simulated frames to lay beside real ones."""

from pathlib import Path

from PIL import Image, ImageDraw

from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import (
    BYPASS,
    CHOLECYSTECTOMY,
    PROSTATECTOMY,
    simulate_operation,
    simulate_scenario,
)
from surgr1.simulator.render import draw_boxes, render
from surgr1.simulator.scenarios import scenario_names
from surgr1.simulator.scene import Field, Scene

_COLUMNS, _WIDTH, _HEIGHT, _CAPTION = 4, 360, 203, 34


def contact_sheet(path: Path, *, seed: int = 1) -> Path:
    """Every phase or action of the three procedures and every stage of the scenarios, centres in turn, boxes
    on the instruments, labels below. Writes a PNG.
    """
    centres = list(CENTRES.values())
    tiles: list[tuple[Image.Image, str, str]] = []
    operations = [
        simulate_operation(procedure, seed=seed + k, centre=centres[0], seconds=60)
        for k, procedure in enumerate((CHOLECYSTECTOMY, PROSTATECTOMY, BYPASS))
    ]
    operations += [simulate_scenario(n, seed=seed, centre=centres[0], seconds=70) for n in scenario_names()]
    for operation in operations:
        shown: set[str] = set()
        for i, scene in enumerate(operation.scenes):
            label = _label(scene)
            later = operation.scenes[min(i + 1, len(operation.scenes) - 1)]
            if label in shown or _label(later) != label:
                continue
            shown.add(label)
            centre = centres[len(tiles) % len(centres)]
            picture = draw_boxes(render(later, centre), tuple(x.tool for x in later.instruments))
            deeds = ", ".join(
                f"{x.tool} {x.verb} {x.target}" if _acts(later) else x.tool for x in later.instruments
            )
            cvs = f"  CVS {''.join(str(int(v)) for v in later.cvs)}" if later.cvs else ""
            tiles.append(
                (picture.resize((_WIDTH, _HEIGHT)), f"{label}{cvs}"[:40] + f"  ({centre.name})", deeds)
            )
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


def _label(scene: Scene) -> str:
    """What sets this stretch of the operation apart: a field without phases goes by what lies at its back."""
    if not isinstance(scene.anatomy, Field):
        return scene.phase or scene.action
    named = ": ".join(x for x in (scene.phase, scene.step, scene.action) if x)
    return named or f"{scene.anatomy.scenario}: {scene.anatomy.organs[0].name}"


def _acts(scene: Scene) -> bool:
    return scene.anatomy.deeds if isinstance(scene.anatomy, Field) else scene.procedure == CHOLECYSTECTOMY
