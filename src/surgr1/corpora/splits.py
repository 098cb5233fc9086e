"""Official splits by video, in the dataset's own video names (reference datasets-a.md 1.4, 3.5, 4.4, 5.4;
datasets-b.md 1.4).
"""

from collections.abc import Iterable, Mapping

from surgr1.corpora.schema import Role
from surgr1.corpora.sources import LayoutError

_T50_RDV = {
    "train": (
        1,
        15,
        26,
        40,
        52,
        65,
        79,
        2,
        18,
        27,
        43,
        56,
        66,
        92,
        4,
        22,
        31,
        47,
        57,
        68,
        96,
        5,
        23,
        35,
        48,
        60,
        70,
        103,
        13,
        25,
        36,
        49,
        62,
        75,
        110,
    ),
    "validation": (8, 12, 29, 50, 78),
    "test": (6, 51, 10, 73, 14, 74, 32, 80, 42, 111),
}
_T50_CHALLENGE = {
    "train": (
        1,
        15,
        26,
        40,
        52,
        79,
        2,
        27,
        43,
        56,
        66,
        4,
        22,
        31,
        47,
        57,
        68,
        23,
        35,
        48,
        60,
        70,
        13,
        25,
        49,
        62,
        75,
        8,
        12,
        29,
        50,
        78,
        6,
        51,
        10,
        73,
        14,
        32,
        80,
        42,
    ),
    "validation": (5, 18, 36, 65, 74),
    "test": (92, 96, 103, 110, 111),
}
_C80 = {"train": range(1, 41), "test": range(41, 81)}
_C80_32_8_40 = {"train": range(1, 33), "validation": range(33, 41), "test": range(41, 81)}
_C80_CAMMA = {"train": range(1, 41), "validation": range(41, 49), "test": range(49, 81)}
_ENDOSCAPES = {"train": range(1, 121), "validation": range(121, 162), "test": range(162, 202)}
_SAR = {"train": range(1, 41), "test": range(41, 51)}

_SPLITS: Mapping[str, Mapping[str, Mapping[str, Iterable[int]]]] = {
    "cholec80": {"default": _C80, "40-40": _C80, "32-8-40": _C80_32_8_40, "40-8-32": _C80_CAMMA},
    "cholect50": {"default": _T50_RDV, "rdv": _T50_RDV, "challenge": _T50_CHALLENGE},
    "endoscapes": {"default": _ENDOSCAPES},
    "sar-rarp50": {"default": _SAR},
}
_ROLES: tuple[Role, ...] = ("train", "validation", "test")
_NAMES = {
    "cholec80": "video{:02d}",
    "cholect50": "VID{:02d}",
    "endoscapes": "{}",
    "sar-rarp50": "video_{:02d}",
}


def official_split(layout: str, split: str = "default") -> dict[str, Role]:
    """Video name -> role. MultiBypass140's splits are in the user's own pickles and not here. Raises
    LayoutError on an unknown split.
    """
    if split not in _SPLITS[layout]:
        raise LayoutError(f"{layout} has no split {split!r}; it has: {', '.join(_SPLITS[layout])}")
    roles: dict[str, Role] = {}
    for role in _ROLES:
        for number in _SPLITS[layout][split].get(role, ()):
            roles[_NAMES[layout].format(number)] = role
    return roles
