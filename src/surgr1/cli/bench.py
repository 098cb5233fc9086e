"""`surgr1 bench …`: SurgBench."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="SurgBench: predictions and scores.")


@app.command("run")
def run_bench(
    recipe: RecipeFile,
    stage: Annotated[str, typer.Option(help="base, sft, coldstart, grpo or refine")] = "refine",
    out: Out = None,
    data: Data = None,
) -> None:
    """Predict and score after one finished stage.

    Example: surgr1 bench run recipes/demo.yaml --stage grpo
    """
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data)
    execute(loaded, folder, console, only=f"bench-{stage}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder")], as_json: Json = False) -> None:
    """Scores, intervals, floors and N per stage and task of a run.

    Example: surgr1 bench report --json runs/demo
    """
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
    table = Table("task (primary)", "N / videos", "floor", *order)
    for card in scores[order[-1]]["cards"]:
        cells = []
        for stage in order:
            mine = next((c for c in scores[stage]["cards"] if c["id"] == card["id"]), None)
            value = mine["metrics"][mine["primary"]] if mine else None
            cells.append(f"{value['value']:.1f} [{value['low']:.1f}, {value['high']:.1f}]" if value else "-")
        table.add_row(
            f"{card['title']} ({card['primary']})",
            f"{card['n']} / {card['videos']}",
            f"{card['floor']:.1f}",
            *cells,
        )
    for group in scores[order[-1]]["arena"]:
        rows = [scores[s]["arena"][group] for s in order]
        cells = [f"{a['value']:.1f} [{a['low']:.1f}, {a['high']:.1f}] lift {a['lift']:.2f}" for a in rows]
        table.add_row(f"Arena {group}", "", f"{rows[-1]['floor']:.1f}", *cells)
    table.add_row("valid format", "", "", *[f"{100 * scores[s]['valid_format']:.1f}" for s in order])
    wide.print(table)
