"""Starting worker processes that Ctrl-C does not reach."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes started here never see Ctrl-C (they inherit the mask); it reaches this one afterwards, which
    ends them in order. A worker that dies with a lock of the queue in its hands could leave the pool waiting
    for ever.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
