"""The root of every error a user can cause or mend. The command line prints its message and exits 1."""


class SurgR1Error(Exception):
    """Names the file or argument, what was found, what was expected and what to do."""


class Stopped(Exception):
    """Not an error: work ended early and in order because it was asked to; the same command continues it."""
