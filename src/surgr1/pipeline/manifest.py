"""A stage's `manifest.json`, written last: its presence with a matching key means the stage is done
(design.md section 4).
"""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from surgr1 import __version__
from surgr1.ontology.errors import SurgR1Error

NAME = "manifest.json"


class ManifestError(SurgR1Error):
    """A manifest that exists but cannot be read, or one that a later stage needs and is not there."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage was made from and what it made.

    `key` is the hash of configuration, package version and input keys; `counts` are sizes of what was
    written; `seconds` wall time of the run that finished it.
    """

    stage: str
    key: str
    version: str
    commit: str
    inputs: dict[str, str]
    config: dict[str, Any]
    counts: dict[str, float]
    seconds: float
    finished: str


def stage_key(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Hash that changes when the stage would give another result: its configuration, its inputs or the
    package version.
    """
    body = json.dumps([stage, config, dict(inputs), __version__], sort_keys=True, default=str)
    return hashlib.sha256(body.encode()).hexdigest()[:24]


def code_commit() -> str:
    """The git commit of the running source tree, "+" if it has changes, "" outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, default=str)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Mark the stage in `folder` as done."""
    write_json(folder / NAME, asdict(manifest))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, None if the stage has not finished. Raises ManifestError on a damaged
    file.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ManifestError(
            f"{path}: not a stage manifest ({error}); delete it to run the stage again"
        ) from error


def timestamp() -> str:
    """UTC time to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
