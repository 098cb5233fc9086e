"""`surgr1 bench …`: SurgBench."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, Set, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="SurgBench: predictions and scores.")


@app.command("run")
def run_bench(
    recipe: RecipeFile,
    stage: Annotated[str, typer.Option(help="base, sft, coldstart, grpo or refine")] = "refine",
    out: Out = None,
    data: Data = None,
    settings: Set = None,
) -> None:
    """Predict and score after one finished stage.

    Example: surgr1 bench run recipes/demo.yaml --stage grpo
    """
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data, settings)
    execute(loaded, folder, console, only=f"bench-{stage}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder")],
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown")] = False,
) -> None:
    """Scores, intervals, floors and N per stage and task of a run.

    Example: surgr1 bench report --json runs/demo
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from surgr1.bench.runner import PredictionError

    files = {p.parent.name: p for p in sorted(folder.glob("bench/*/scores.json"))}
    if not files:
        raise PredictionError(f"{folder}: no bench/<stage>/scores.json; run the recipe first")
    order = [s for s in ("base", "sft", "coldstart", "grpo", "refine") if s in files]
    scores: dict[str, Any] = {s: json.loads(files[s].read_text(encoding="utf-8")) for s in order}
    if as_json:
        show(scores, True)
        return
    # Eight columns of intervals do not fit a plain log's 80 characters.
    wide = Console(width=max(console.width, 60 + 26 * len(order)))
    look = box.MARKDOWN if markdown else box.HEAVY_HEAD
    table = Table("task (primary metric)", "N / videos", "floor", *order, box=look)
    for row in _rows([scores[s] for s in order]):
        table.add_row(*row)
    wide.print(table)


def _rows(scores: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The table of a run's stages: cards, Arena Scores, lifts, share of valid format."""

    last = scores[-1]
    # One video cannot be resampled: its bootstrap has no width and would look like certainty.
    alone = any(c["videos"] < 2 for c in last["cards"])

    def interval(value: dict[str, float] | None) -> str:
        if not value:
            return "-"
        bounds = "" if alone else f" [{value['low']:.1f}, {value['high']:.1f}]"
        return f"{value['value']:.1f}{bounds}"

    for card in last["cards"]:
        mine = [next((c for c in s["cards"] if c["id"] == card["id"]), None) for s in scores]
        yield [
            f"{card['title']} ({card['primary']})",
            f"{card['n']} / {card['videos']}",
            f"{card['floor']:.1f}",
            *[interval(c["metrics"][c["primary"]] if c else None) for c in mine],
        ]
    for group, found in last["arena"].items():
        arenas = [s["arena"][group] for s in scores]
        yield [f"Arena {group}", "", f"{found['floor']:.1f}", *[interval(a) for a in arenas]]
        yield [f"lift {group}", "", "", *[f"{a['lift']:.2f}" for a in arenas]]
    for title, external in (("valid format, public sets", False), ("valid format, external sets", True)):
        chosen = [[c for c in s["cards"] if (c["group"] == "external") == external] for s in scores]
        if all(chosen):
            totals = [sum(c["n"] for c in cards) for cards in chosen]
            valid = [sum(c["n"] * c["valid_format"] for c in cards) for cards in chosen]
            shares = [f"{100 * v / n:.1f}" for v, n in zip(valid, totals, strict=True)]
            yield [title, str(totals[-1]), "", *shares]
