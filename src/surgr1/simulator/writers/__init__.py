"""Simulated operations as native trees: byte layouts as the real releases have them (reference datasets-a.md,
datasets-b.md). One module per layout, named after it ("-" as "_").

Every module has `SCENARIO` (the procedure, or the scenario of `scenarios.yaml`), `write_video`, which writes
one video and returns what the tree-wide label files need, `DAMAGES` (ways to break the tree, for
`simulator.verify`) and, where such files exist, `finish`, which writes them. Labels hold only what the
renderer shows. The keys "truth" and "expected" of what `write_video` returns are no part of any tree: the
whole scene of every stored frame (`truth.py`), and what the adapter must read of it.

`common` holds what writing needs, `damage` what breaks the files. Numbers, colours and folder names of a
release that its adapter has too are written out again in the writer, on purpose: the round trip compares two
readings of the reference, and could not see an error in a table that both sides import.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from surgr1.corpora.datasets import dataset_names
from surgr1.corpora.sources import SIMULATED
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.writers.common import NOTICE, Split, pictures_root, save_text

__all__ = ["NOTICE", "Split", "finish_tree", "layouts", "scenario_of", "write_video", "writer"]


def layouts() -> tuple[str, ...]:
    """The layouts that can be written."""
    folder = Path(__file__).parent
    return tuple(n for n in dataset_names() if (folder / f"{n.replace('-', '_')}.py").is_file())


def writer(layout: str) -> ModuleType:
    """The module of a layout."""
    return import_module(f"surgr1.simulator.writers.{layout.replace('-', '_')}")


def scenario_of(layout: str) -> str:
    """What is operated in this layout's videos."""
    return str(writer(layout).SCENARIO)


def write_video(
    layout: str, root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """Write one video; see the module docstring for what comes back."""
    found: dict[str, Any] = writer(layout).write_video(root, number, operation, centre, split)
    return found


def finish_tree(layout: str, root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """Write the label files that describe the whole tree, and the notice that it is simulated."""
    module = writer(layout)
    if hasattr(module, "finish"):
        module.finish(root, videos, split)
    for folder in (root, pictures_root(root)):
        if folder.is_dir():
            save_text(NOTICE, folder / SIMULATED)
