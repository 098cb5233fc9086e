"""Closed vocabularies of the datasets: native spelling, canonical name, aliases (data in
`vocabularies/<layout>.yaml`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import yaml

from surgr1.ontology.errors import SurgR1Error

HOSPITALS = {
    "west-china": "endoscapes",
    "nanfang": "endoscapes",
    "renji": "cholect50",
    "strasbourg": "cholec80",
    "cuhk": "sar-rarp50",
}
"""The paper's external sets, which hospitals keep to themselves, and the layout each simulated twin comes in.
Public sets are named after their layout.
"""


class VocabularyError(SurgR1Error):
    """An unknown dataset, kind of vocabulary or label."""


@dataclass(frozen=True)
class Vocabulary:
    """Labels of one kind in one dataset. `names` are canonical, `native` verbatim, both in native id
    order.
    """

    dataset: str
    kind: str
    names: tuple[str, ...]
    native: tuple[str, ...]
    aliases: Mapping[str, str]
    first_id: int = 0

    @cached_property
    def _by_native(self) -> dict[str, str]:
        return dict(zip(self.native, self.names, strict=True))

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Canonical name -> native id."""
        return MappingProxyType({name: i + self.first_id for i, name in enumerate(self.names)})

    def from_native(self, text: str) -> str:
        """Canonical name of a label as it stands in the dataset's file (exact spelling). Raises
        VocabularyError.
        """
        try:
            return self._by_native[text]
        except KeyError:
            raise VocabularyError(
                f"{self.dataset} has no {self.kind} {text!r}; it has: {', '.join(self.native)}"
            ) from None

    def to_native(self, name: str) -> str:
        """The dataset's own spelling of a canonical name. Raises VocabularyError."""
        try:
            return self.native[self.names.index(name)]
        except ValueError:
            raise VocabularyError(
                f"{self.dataset} has no {self.kind} {name!r}; it has: {', '.join(self.names)}"
            ) from None


def layout_of(dataset: str) -> str:
    """The native layout behind a dataset id: "sim-cholec80" -> "cholec80", "sim-renji" -> "cholect50"."""
    base = dataset.removeprefix("sim-")
    return HOSPITALS.get(base, base)


@lru_cache
def _all() -> dict[str, dict[str, Vocabulary]]:
    """Every vocabulary by dataset and kind; a file that says `same_as: X` has X's."""
    folder = Path(str(files("surgr1.ontology"))) / "vocabularies"
    raw = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.yaml"))}
    return {
        dataset: {
            kind: Vocabulary(
                dataset=dataset,
                kind=kind,
                names=tuple(canonical for _, canonical in body["labels"]),
                native=tuple(native for native, _ in body["labels"]),
                aliases=MappingProxyType(dict(body["aliases"])),
                first_id=body.get("first_id", 0),
            )
            for kind, body in (raw[kinds["same_as"]] if "same_as" in kinds else kinds).items()
        }
        for dataset, kinds in raw.items()
    }


def has_vocabulary(dataset: str, kind: str) -> bool:
    """Whether the dataset (or its simulated twin) labels this kind."""
    return kind in _all().get(layout_of(dataset), {})


def vocabulary(dataset: str, kind: str) -> Vocabulary:
    """The vocabulary of a dataset id or layout. Kinds: tool, tissue, verb, target, triplet, phase, step,
    action.
    """
    layout = layout_of(dataset)
    if layout not in _all():
        raise VocabularyError(f"no vocabulary for dataset {dataset!r}; known layouts: {', '.join(_all())}")
    if kind not in _all()[layout]:
        raise VocabularyError(f"{layout} has no {kind!r} vocabulary; it has: {', '.join(_all()[layout])}")
    return _all()[layout][kind]


@lru_cache
def triplet_parts(name: str) -> tuple[str, str, str]:
    """(tool, verb, target) of a canonical CholecT50 triplet such as "grasper retract cystic duct". Raises
    VocabularyError.
    """
    triplets = vocabulary("cholect50", "triplet")
    tool, verb, target = (part.replace("_", " ") for part in triplets.to_native(name).split(","))
    return tool, verb, target
