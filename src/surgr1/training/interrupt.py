"""SIGTERM, a scheduler's notice, ends training in order: the running step is finished and a checkpoint
written.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from surgr1.ontology.errors import Stopped


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
