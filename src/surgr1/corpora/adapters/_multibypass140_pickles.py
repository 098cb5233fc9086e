"""MultiBypass140's split pickles (reference datasets-a.md 5.1, 5.2, 5.4), read as plain data.

A pickle is a program. Before it runs, all of its instructions are matched against those that build dicts,
lists, short strings and numbers of bounded size; a file with any other instruction is not run.
"""

import io
import pickle
import pickletools
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from surgr1.corpora.files import LabelError

NONE = 255
"""No label at this second."""
_MOST_BYTES = 24 << 20
"""The largest released one, the training videos of one fold, has about 12 million."""
_MOST_CONTAINERS = 1_000_000
"""Dicts and lists, of which one byte makes 64; the released ones have at most some 270,000."""
_MOST_VIDEOS = 70
_MOST_SECONDS = 100_000
_SHORT = 64
"""Bytes of a string. The longest in a released pickle has 17."""
_PHASES, _STEPS = 12, 46


def _plain_instructions() -> re.Pattern[bytes]:
    """The instructions of a pickle of protocol 2-5 up to the first that does more than build plain data."""
    strings = [
        head + re.escape(bytes([n])) + tail + b".{%d}" % n
        for n in range(_SHORT + 1)
        for head, tail in ((rb"\x8c", b""), (b"X", rb"\x00{3}"))
    ]
    one = [
        b"h.",  # BINGET, the commonest
        b"K.",  # BININT1
        rb"[\x94(}\]]",  # MEMOIZE, MARK, EMPTY_DICT, EMPTY_LIST
        rb"[ueasN\x88\x89]",  # SETITEMS, APPENDS, APPEND, SETITEM, NONE, NEWTRUE, NEWFALSE
        *(rb"\x8a" + re.escape(bytes([n])) + b".{%d}" % n for n in (5, 0, 1, 2, 3, 4, 6, 7, 8)),  # LONG1
        b"M..",  # BININT2
        b"J.{4}",  # BININT
        b"G.{8}",  # BINFLOAT
        rb"j..[\x00-\x3f]\x00",  # LONG_BINGET
        b"q.",  # BINPUT
        rb"r..[\x00-\x3f]\x00",  # LONG_BINPUT: its number is the length of a table that is made
        rb"\x95.{4}\x00{4}",  # FRAME
    ]
    return re.compile(rb"\x80[\x02-\x05](?:" + b"|".join(one + strings) + rb")*+", re.DOTALL)


_PLAIN = _plain_instructions()


class _Unpickler(pickle.Unpickler):
    """Admits no class, should one ever get past the pattern."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise LabelError(f"a pickle that asks for {module}.{name} is refused")


def _check(path: Path, data: bytes) -> None:
    """Raises LabelError naming the first instruction that plain data does not need."""
    if data.count(b"}") + data.count(b"]") > _MOST_CONTAINERS:
        raise LabelError(f"{path}: refused: more than {_MOST_CONTAINERS} dicts and lists")
    plain = _PLAIN.match(data)
    at = plain.end() if plain else 0
    if plain and data[at:] == b".":
        return
    try:
        op, arg, _ = next(pickletools.genops(data[at:]))
    except (ValueError, StopIteration) as error:
        raise LabelError(f"{path}: not a whole pickle at byte {at}: {error}") from error
    raise LabelError(
        f"{path}: refused: {op.name} {str(arg)[:80]!r} at byte {at}; the released pickles (protocol 4) hold"
        " plain dicts, lists, short strings and numbers; get it again from the source"
    )


@dataclass(frozen=True)
class Released:
    """A video's rows in a pickle: the numbers of phase and step at every second, NONE where it has no
    row.
    """

    path: Path
    phases: bytes
    steps: bytes


def load_pickle(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A split pickle: video -> rows of str and numbers. Raises LabelError on anything else."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise LabelError(
                f"{path}: {path.stat().st_size} bytes; the released pickles have under {_MOST_BYTES}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error}") from error
    _check(path, data)
    try:
        table = _Unpickler(io.BytesIO(data)).load()
    except (
        EOFError,
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
    ) as error:
        raise LabelError(f"{path}: not a whole pickle: {error!r}") from error
    if not isinstance(table, dict) or not all(
        isinstance(k, str) and isinstance(v, list) for k, v in table.items()
    ):
        raise LabelError(f"{path}: expected a dict of video -> rows, found {type(table).__name__}")
    if len(table) > _MOST_VIDEOS or any(len(rows) > _MOST_SECONDS for rows in table.values()):
        raise LabelError(f"{path}: more than {_MOST_VIDEOS} videos, or over {_MOST_SECONDS} rows of one")
    return table


def released(path: Path) -> dict[str, Released]:
    """Video -> its rows. Raises LabelError naming video and row of what is no label."""
    return {video: _released(path, video, rows) for video, rows in load_pickle(path).items()}


def _released(path: Path, video: str, rows: list[dict[str, Any]]) -> Released:
    """The rows of one video by second."""
    length = 0
    phases, steps = (bytearray([NONE]) * (_MOST_SECONDS + 1) for _ in range(2))
    for row in rows:
        try:
            second, phase, step = row["Original_frame_id"], row["Phase_gt"], row["Step_gt"]
            usual = 0 <= second < _MOST_SECONDS and 0 <= phase < _PHASES and 0 <= step < _STEPS
            if not usual or phases[second] != NONE:
                raise ValueError("a number out of range, or a second that has a row already")
            phases[second], steps[second] = phase, step
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise LabelError(f"{path}: {video}: row {reprlib.repr(row)} is no label: {error!r}") from error
        if second >= length:
            length = second + 1
    return Released(path, bytes(phases[:length]), bytes(steps[:length]))
