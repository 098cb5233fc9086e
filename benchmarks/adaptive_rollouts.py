"""What stopping at the first right and sound rollout saves in refinement, against all K rollouts.

    python benchmarks/adaptive_rollouts.py recipes/demo.yaml runs/demo

Takes the first iteration of a finished run: the same samples, policy, seeds and images, all K rollouts (those
the run made come from its ledger). Prints tokens and rollouts of both, and whether the hard set (Eq. 8), the
re-tagged set and the kept traces are the same.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console

from surgr1.engines.types import Sampling
from surgr1.pipeline.recipe import load_recipe
from surgr1.pipeline.stages import SALTS, Run
from surgr1.synthesis.store import TraceStore
from surgr1.training.refine import judge, rollout_requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    folder = args.run.resolve()
    run = Run(load_recipe(args.recipe, run_dir=folder), folder, Console(stderr=True))
    section = run.recipe.refine
    if section is None:
        parser.error(f"{args.recipe} has no refinement")
    samples = run.select(section.select, SALTS["refine"])
    images = run.images(samples)
    sampling = Sampling(
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        seed=run.recipe.seed + 1,
        n=section.rollouts,
    )
    by_id = {s.sample_id: s for s in samples}
    fixed: dict[str, tuple[int, list[tuple[bool, bool]]]] = {}
    with (
        run.engine(run.adapter("refine")) as engine,
        run.bar(f"all {section.rollouts} rollouts") as advance,
    ):
        for request, answers in engine.generate(rollout_requests(samples, images), sampling):
            i = request.request_id
            verdicts = [judge(by_id[i], a, images[i]) for a in answers]
            fixed[i] = sum(a.tokens_out for a in answers), [(v.right, v.accepted) for v in verdicts]
            advance(len(fixed), len(samples))

    first = folder / "refine" / "iteration-1"
    with TraceStore(first) as store:
        stored = store.of([s.sample_id for s in samples], "self")
    rows = {i: [(d.right, d.accepted) for d in found] for i, found in stored.items()}
    report = json.loads((first / "report.json").read_text(encoding="utf-8"))

    def fate(verdicts: list[tuple[bool, bool]]) -> str | int:
        if (True, True) in verdicts:
            return verdicts.index((True, True))
        return "re-tagged" if any(right for right, _ in verdicts) else "hard"

    same = sum(fate(rows[i]) == fate(fixed[i][1]) for i in rows)
    tokens, rollouts = sum(t for t, _ in fixed.values()), section.rollouts * len(samples)
    print(f"fixed K = {section.rollouts}: {rollouts} rollouts, {tokens} tokens")
    print(f"until right: {report['generated']} rollouts, {report['tokens']} tokens")
    print(f"ratio of tokens {report['tokens'] / tokens:.3f}; same fate for {same} of {len(samples)} samples")


if __name__ == "__main__":
    main()
