"""The callback of every stage: log, console line, gradient norms, the proof that adapters learn, sealed
checkpoints.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surgr1.training.lora import check_gradients, gradient_norms
from surgr1.training.stage import Progress, Say, append_row, check_finite, processes, seal


def watch(
    model: Any,
    out: Path,
    *,
    prove: bool,
    describe: Callable[[Mapping[str, Any]], str],
    progress: Progress | None,
    say: Say | None,
) -> Any:
    """A callback for transformers' Trainer. `prove` stops a run in which an adapter gets no gradient at the
    first step (fresh adapters, supervised); `describe` makes the console line of a log row.
    """
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.norms: dict[str, float] = {}
            self.since = time.perf_counter()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0 and prove:
                check_gradients(model)
            if (state.global_step + 1) % args.logging_steps == 0:
                self.norms = gradient_norms(model)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not logs or "loss" not in logs:
                return
            check_finite(logs["loss"], state.global_step, out / "checkpoints")
            now = time.perf_counter()
            seconds, self.since = (now - self.since) / args.logging_steps, now
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            # They were taken after clipping, which scales all alike; `grad_norm` is that of before.
            scale = logs["grad_norm"] / (math.hypot(*self.norms.values()) or 1.0)
            towers = {f"gradient_norm/{t}": n * scale for t, n in self.norms.items()}
            row = {"step": state.global_step, **numbers, **towers, "seconds/step": seconds}
            append_row(out / "log.jsonl", row)
            if say and processes()[0] == 0:
                say(f"step {state.global_step}/{state.max_steps}  {describe(row)}  {seconds:.2f} s/step")

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.distributed.is_initialized():
                # Of a sharded model every process writes a part.
                torch.distributed.barrier()
            if processes()[0] == 0:
                seal(out / "checkpoints" / f"checkpoint-{state.global_step}")

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if progress:
                progress(state.global_step, state.max_steps)

    return Watch()
