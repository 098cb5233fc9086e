"""What a source's files and our reading of them are, as one hash: a dataset is built again exactly when it
changes.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from surgr1.corpora.files import LayoutError
from surgr1.corpora.sources import Source


def fingerprint(source: Source) -> str:
    """A hash of the source's settings, of this code and its data, and of its files (`files_state`)."""
    text = f"{code_version()}|{source.model_dump_json()}|{files_state(source)}"
    return hashlib.sha256(text.encode()).hexdigest()


def files_state(source: Source) -> str:
    """A hash of every file's path, size and time of change (not its content: a corpus has millions of
    pictures). Raises LayoutError on a symbolic link that leads out of the dataset's folder.
    """
    digest = hashlib.sha256()
    for root in sorted({source.root, source.picture_root}):
        for line in _listing(root, root):
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _listing(root: Path, folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda e: e.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from _listing(root, Path(entry.path))
        else:
            if entry.is_symlink():
                _inside(root, Path(entry.path))
            state = entry.stat(follow_symlinks=False)
            yield f"{os.path.relpath(entry.path, root)}|{state.st_size}|{state.st_mtime_ns}\n"


def _inside(root: Path, link: Path) -> None:
    # Not Path.resolve, which fails on a link that leads to itself.
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(os.path.realpath(root)):
        raise LayoutError(
            f"{link}: a symbolic link out of {root}, to {target}; put the files themselves there, or"
            " give the folder they lie in"
        )


@lru_cache
def code_version() -> str:
    """A hash of the rooms that decide what a sample is."""
    digest = hashlib.sha256()
    for room in ("ontology", "reasoning", "corpora"):
        folder = Path(str(files(f"surgr1.{room}")))
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml")):
            digest.update(f"{path.relative_to(folder)}|".encode() + path.read_bytes())
    return digest.hexdigest()
