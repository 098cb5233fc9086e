"""One training stage, in this process or in those that a launcher starts (torchrun, accelerate, srun).

A launcher runs this file with a job in every process, on every node; the processes find each other by the
variables that it sets. `train` writes the job and waits.
"""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from surgr1.ontology.errors import Stopped, SurgR1Error
from surgr1.training.grpo import GRPOStage, run_grpo
from surgr1.training.loading import release_memory
from surgr1.training.sft import SFTStage, run_sft
from surgr1.training.stage import Progress, Say, Tracking, TrainingError, TrainResult, processes

_RESULT = TypeAdapter(TrainResult)


def train(
    stage: SFTStage | GRPOStage,
    *,
    model_dir: Path,
    adapter_in: Path | None,
    conversations: Path,
    out: Path,
    launcher: str = "",
    progress: Progress | None = None,
    say: Say | None = None,
    tracking: Tracking = "none",
) -> TrainResult:
    """Run the stage; `launcher` is the command that starts its processes, e.g. "torchrun --nproc-per-node 8"
    (empty: this process alone). Raises TrainingError, Stopped.
    """
    places: dict[str, Any] = {
        "model_dir": model_dir,
        "adapter_in": adapter_in,
        "conversations": conversations,
        "out": out,
    }
    if not launcher:
        result = _run(stage, places, progress=progress, say=say, tracking=tracking)
        release_memory()
        return result
    out.mkdir(parents=True, exist_ok=True)
    job, written = out / "job.json", out / "result.json"
    written.unlink(missing_ok=True)
    body = {"kind": type(stage).__name__, "stage": stage.model_dump(mode="json"), "tracking": tracking}
    job.write_text(json.dumps(body | {"places": places}, default=str), encoding="utf-8")
    # The module's file, not `-m`: every launcher takes a script.
    command = [*shlex.split(launcher), __file__, str(job)]
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        raise TrainingError(f"launcher {launcher!r} cannot be started: {error}") from error
    stopped = False

    def terminate(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # The launcher ends its processes before itself.
        process.terminate()
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if written.is_file():
        return _RESULT.validate_json(written.read_bytes())
    # Processes that a scheduler stopped themselves end in order too.
    if stopped or status == 0:
        raise Stopped(f"{out.name}: stopped by SIGTERM; run the same command again to continue")
    raise TrainingError(
        f"the processes that {launcher!r} started ended with status {status} before the stage was done; the"
        " first error is above; run again to continue from the last checkpoint"
    )


def _run(stage: SFTStage | GRPOStage, places: dict[str, Any], **settings: Any) -> TrainResult:
    if isinstance(stage, GRPOStage):
        return run_grpo(stage, **places, **settings)
    return run_sft(stage, **places, **settings)


def main(job: Path) -> None:
    """One of the processes."""
    body = json.loads(job.read_text(encoding="utf-8"))
    kinds: dict[str, type[SFTStage | GRPOStage]] = {k.__name__: k for k in (SFTStage, GRPOStage)}
    stage = kinds[body["kind"]].model_validate(body["stage"])
    places = {k: None if v is None else Path(v) for k, v in body["places"].items()}
    result = _run(stage, places, say=lambda line: print(line, flush=True), tracking=body["tracking"])
    if processes()[0] == 0:
        (job.parent / "result.json").write_bytes(_RESULT.dump_json(result))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Stopped as reason:
        print(reason, file=sys.stderr)
    except SurgR1Error as error:
        raise SystemExit(f"error: {error}") from None
