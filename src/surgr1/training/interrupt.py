"""SIGTERM, a scheduler's notice, ends training in order: the running step is finished and a checkpoint
written.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surgr1.ontology.errors import Stopped


def _any_process(requested: bool, device: Any) -> bool:
    """Whether any process of the training was asked to stop. The signal reaches them one by one, before and
    after the end of a step: without agreeing, one would save while another waits for it in the next step.
    """
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return requested
    flag = torch.tensor(int(requested), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


@contextmanager
def stop_on_sigterm(steps: int) -> Iterator[Any]:
    """Yields a callback for transformers' Trainer. Leaving the block raises Stopped when SIGTERM ended the
    training before its last step.
    """
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        requested = False
        step = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.step = state.global_step
            self.requested = _any_process(self.requested, args.device)
            if self.requested:
                control.should_save = control.should_training_stop = True

    stop = Stop()

    def request(number: int, frame: Any) -> None:
        stop.requested = True

    before = signal.signal(signal.SIGTERM, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
    if stop.requested and stop.step < steps:
        raise Stopped(
            f"stopped by SIGTERM after step {stop.step} of {steps}, checkpoint written; run the same command"
            " again to continue"
        )
