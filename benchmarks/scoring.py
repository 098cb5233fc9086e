"""How long scoring takes: predictions of every task card, written to a file, read, judged and scored with
2,000 draws of whole videos. The file is made up; its answers are right, wrong, repaired or unreadable.

    python benchmarks/scoring.py [--rows 100000] [--draws 2000]
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from surgr1.bench.cards import Card, all_cards
from surgr1.bench.predictions import read_predictions
from surgr1.bench.scoring import score

VIDEOS = 40
_FORMS = (
    "<answer>{}</answer>",
    "<think>Level 1: I see a hook.\nLevel 2: It cuts.\nLevel 3: So.</think><answer>{}</answer>",
    "The answer is {}.",
    "<answer>I cannot say</answer>",
)


def answer(card: Card, chance: random.Random) -> str:
    """A possible answer to a card's question."""
    if card.kind == "box":
        x, y = chance.randrange(200), chance.randrange(100)
        return f"({x},{y}),({x + 40},{y + 30})"
    names = chance.sample(card.labels, 2 if card.kind in ("labels", "triplets") else 1)
    separator = "; " if card.kind == "triplets" else ", "
    return separator.join(n for n in card.labels if n in names)


def write(path: Path, rows: int) -> Counter[str]:
    """Rows of every card in equal parts."""
    chance = random.Random(0)
    cards, counts = all_cards(), Counter[str]()
    with path.open("w", encoding="utf-8") as file:
        for card in cards:
            focuses = {"cvs": ("C1", "C2", "C3"), "box": card.labels[:3]}.get(card.kind, ("",))
            for k in range(rows // len(cards) // len(focuses) + 1):
                for focus in focuses:
                    truth = answer(card, chance)
                    given = truth if chance.random() < 0.6 else answer(card, chance)
                    counts[card.id] += 1
                    row = {
                        "sample_id": f"{card.id}-{k}-{focus}",
                        "dataset": f"sim-{card.dataset}",
                        "centre": card.centres[0],
                        "video": f"v{k % VIDEOS}",
                        "frame": k,
                        "task": str(card.task),
                        "focus": focus,
                        "answer": truth,
                        "size": [448, 252],
                        "text": chance.choices(_FORMS, (6, 6, 1, 1))[0].format(given),
                    }
                    file.write(json.dumps(row) + "\n")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--draws", type=int, default=2000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        counts = write(path, chosen.rows)
        start = time.perf_counter()
        rows = list(read_predictions(path))
        read = time.perf_counter()
        found = score(rows, name="made up", draws=chosen.draws)
        end = time.perf_counter()
    metrics = sum(len(c["metrics"]) for c in found["cards"])
    print(f"{sum(counts.values())} predictions, {len(counts)} cards, {metrics} metrics, {chosen.draws} draws")
    print(f"read and judged {read - start:.1f} s, scored {end - read:.1f} s, together {end - start:.1f} s")


if __name__ == "__main__":
    main()
