"""`surgr1 bench …`: SurgBench."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, Set, console, dataset_folders, open_recipe, show

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="SurgBench: ask models, score answers, compare, report.")


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
) -> None:
    """Scores, intervals, floors and N per stage and task of a run.

    Example: surgr1 bench report --json runs/demo
    """
    from surgr1.bench.predictions import PredictionError
    from surgr1.bench.report_tables import markdown_table

    files = {p.parent.name: p for p in sorted(folder.glob("bench/*/scores.json"))}
    if not files:
        raise PredictionError(f"{folder}: no bench/<stage>/scores.json; run the recipe first")
    order = [s for s in ("base", "sft", "coldstart", "grpo", "refine") if s in files]
    scores: dict[str, Any] = {s: json.loads(files[s].read_text(encoding="utf-8")) for s in order}
    if as_json:
        show(scores, True)
        return
    print(markdown_table(list(scores.values())))


@app.command()
def tasks(as_json: Json = False) -> None:
    """The task cards: what is asked about which frames, how it is scored, where the data may go.

    Example: surgr1 bench tasks --json
    """
    from surgr1.bench.cards import all_cards

    cards = all_cards()
    if as_json:
        hashes = ({"vocabulary": c.vocabulary_hash, "questions": c.question_hash} for c in cards)
        show([c.model_dump(mode="json") | {"hashes": h} for c, h in zip(cards, hashes, strict=True)], True)
        return
    table = _table("card", "group", "task", "labels", "primary", "frames", "policy")
    for c in cards:
        table.add_row(
            c.id,
            c.group,
            str(c.task),
            str(len(c.labels) or "open"),
            c.primary,
            f"{c.frames.size or 'all'} of {c.frames.videos}",
            c.policy,
        )
    console.print(table)


@app.command()
def models(as_json: Json = False) -> None:
    """The model cards: the paper's baselines and how each is asked. Facts from memory are marked as recalled.

    Example: surgr1 bench models
    """
    from surgr1.bench.model_cards import load_model_card, model_ids

    cards = [load_model_card(i) for i in model_ids()]
    if as_json:
        show([c.model_dump(mode="json") for c in cards], True)
        return
    table = _table("card", "printed as", "engine", "weights or API name", "boxes", "published as")
    for c in cards:
        where = c.huggingface or c.api_model or str(c.path or "")
        table.add_row(c.id, c.name, c.engine, where, c.coordinates, c.published.protocol)
    console.print(table)


@app.command()
def ask(
    model: Annotated[
        str | None, typer.Argument(help="A model card's id (`surgr1 bench models`) or a YAML file")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the answers")] = None,
    data: Data = None,
    recipe: Annotated[Path | None, typer.Option(help="Ask about the data of a run of this recipe")] = None,
    run: Annotated[Path | None, typer.Option(help="Ask what this run trained, instead of MODEL")] = None,
    stage: Annotated[str, typer.Option(help="With --run: base, sft, coldstart, grpo or refine")] = "refine",
    protocol: Annotated[
        Literal["open", "options"] | None, typer.Option(help="Instead of the task cards' own")
    ] = None,
    shuffle_options: Annotated[
        int | None, typer.Option(help="Order the options of every question by this seed")
    ] = None,
    reasoning: Annotated[
        bool | None,
        typer.Option(
            "--reasoning/--direct",
            help="Ask for the three levels, or the answer alone (the default for --stage base and sft)",
        ),
    ] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="The model's own thinking")
    ] = None,
    one_shot: Annotated[bool, typer.Option("--one-shot", help="Show the answer's form first")] = False,
    native: Annotated[bool, typer.Option("--native", help="The model card's own prompts")] = False,
    k: Annotated[int, typer.Option("--samples", min=1, help="Answers per question")] = 1,
    temperature: Annotated[float | None, typer.Option(min=0)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions per card")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: Json = False,
) -> None:
    """Ask a model the questions of SurgBench. Killed, the same command continues; failed requests are asked
    again. Data that may not leave goes to no remote endpoint.

    Examples: surgr1 bench ask qwen2.5-vl-7b --data cholect50=/data/CholecT50 --out runs/qwen
    surgr1 bench ask --run runs/demo --recipe recipes/demo.yaml --out runs/asked
    """
    from dataclasses import asdict

    from surgr1.bench.model_cards import load_model_card
    from surgr1.pipeline import evaluate
    from surgr1.pipeline.progress import progress_bar

    if (model is None) == (run is None):
        raise evaluate.EvaluateError("name one of MODEL and --run; `surgr1 bench models` lists the cards")
    samples, roots = _questions(recipe, run, data, limit, seed)
    if run is not None:
        base = open_recipe(recipe, run, data, None)[0].model if recipe is not None else None
        pretrained = {"base": base.path, "dtype": base.dtype} if base is not None and base.path else {}
        card = evaluate.card_of_run(run, stage, **pretrained)
    else:
        card = load_model_card(str(model))
    if reasoning is None:
        reasoning = run is None or stage not in ("base", "sft")
    folder = out or Path("runs") / f"asked-{card.id}"
    with progress_bar(console, f"asking {card.id}") as advance:
        found = evaluate.ask(
            samples,
            roots,
            card,
            folder,
            reasoning=reasoning,
            protocol=protocol,
            shuffle_options=shuffle_options,
            thinking=thinking,
            one_shot=one_shot,
            native=native,
            k=k,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=advance,
        )
    if as_json:
        show(asdict(found), True)
        return
    for w in found.withheld:
        console.print(f"[yellow]not evaluable: policy[/]  {w.dataset}, {w.questions} questions: {w.reason}")
    console.print(f"{found.rows} answers in {found.predictions}; cost and latency in {found.usage}")
    if not found.final:
        console.print(f"[yellow]{found.note}[/]")
    console.print(f"next: surgr1 bench score {found.predictions}")


def _table(first: str, *others: str) -> "Table":
    """A table of which nothing is cut: the names in the first column stay whole, the rest is folded."""
    from rich.table import Column, Table

    return Table(Column(first, no_wrap=True), *(Column(o, overflow="fold") for o in others))


def _questions(
    recipe: Path | None, run: Path | None, data: list[str] | None, limit: int | None, seed: int
) -> tuple[list[Any], dict[str, Path]]:
    """The questions of the task cards about a recipe's built data (in `run`, or where the recipe's runs lie)
    or about dataset folders, with the folders that their pictures lie in.
    """
    from surgr1.pipeline.evaluate import EvaluateError, folder_samples, folder_sources, frame_lists
    from surgr1.pipeline.stages import Run

    if recipe is not None:
        loaded, folder = open_recipe(recipe, run, data, None)
        built = Run(loaded, folder, console)
        chosen = frame_lists(built.samples, limit=limit or loaded.bench.limit_per_card, seed=loaded.seed)
        return chosen, {s.dataset: s.picture_root for s in loaded.sources}
    roots = dataset_folders(data)
    if not roots:
        raise EvaluateError("name the data: --data DATASET=PATH (repeatable), or --recipe of a run")
    sources = folder_sources(roots)
    return folder_samples(sources, limit=limit, seed=seed), {s.dataset: s.picture_root for s in sources}


@app.command("score")
def score_predictions(
    predictions: Annotated[Path, typer.Argument(help="predictions.jsonl (or .parquet)")],
    as_json: Json = False,
    name: Annotated[str, typer.Option(help="How the model is called in reports")] = "",
    draws: Annotated[int, typer.Option(min=10, help="Bootstrap draws")] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
    truth: Annotated[
        Path | None, typer.Option(help="A simulation's truth folder, to check every statement of a trace")
    ] = None,
) -> None:
    """Score a file of predictions alone and write scores.json beside it.

    Example: surgr1 bench score runs/asked/predictions.jsonl --json
    """
    from surgr1.bench.report_tables import markdown_table
    from surgr1.pipeline.measure import measure

    found = measure(
        predictions, name=name or predictions.resolve().parent.name, draws=draws, seed=seed, truth=truth
    )
    if as_json:
        show(found, True)
        return
    print(markdown_table([found]))
    for card in found["cards"]:
        for warning in card["warnings"]:
            console.print(f"[yellow]{card['title']}[/]: {warning}")
    for warning in found["warnings"]:
        console.print(f"[yellow]{warning}[/]")


@app.command("compare")
def compare_predictions(
    before: Annotated[Path, typer.Argument(help="Predictions of one model")],
    after: Annotated[Path, typer.Argument(help="Predictions of the other on the same questions")],
    as_json: Json = False,
    draws: Annotated[int, typer.Option(min=10)] = 2000,
) -> None:
    """Paired differences with intervals, p values, and Holm's correction over the tasks.

    Example: surgr1 bench compare runs/a/predictions.jsonl runs/b/predictions.jsonl
    """
    from surgr1.bench.predictions import read_predictions
    from surgr1.bench.scoring import compare

    found = compare(list(read_predictions(before)), list(read_predictions(after)), draws=draws)
    if as_json:
        show(found, True)
        return
    table = _table("task", "difference", "95 %", "p", "p, Holm", "p, sign flips")
    for card, d in found.items():
        rest = [f"{d[k]:.4f}" if k in d else "" for k in ("p", "p_holm", "p_sign_flip")]
        table.add_row(card, f"{d['difference']:+.1f}", f"[{d['low']:.1f}, {d['high']:.1f}]", *rest)
    console.print(table)


@app.command()
def published(
    check: Annotated[
        bool, typer.Option("--check", help="Recompute every published Arena number from the stored rows")
    ] = False,
    as_json: Json = False,
) -> None:
    """The paper's tables as data, or with --check: claim, reading, value, verdict.

    Example: surgr1 bench published --check
    """
    from dataclasses import asdict

    from surgr1.bench import published as stored

    if not check:
        tables = stored.tables()
        if as_json:
            show([asdict(t) for t in tables], True)
            return
        listing = _table("table", "title", "models", "columns", "source")
        for t in tables:
            listing.add_row(t.id, t.title, str(len(t.rows)), ", ".join(c.name for c in t.columns), t.source)
        console.print(listing)
        return
    claims = stored.check()
    if as_json:
        show([asdict(c) for c in claims], True)
        return
    found = _table("claim", "printed", "value", "verdict", "reading, or why not")
    for c in claims:
        value = "-" if c.value is None else f"{c.value:.2f}"
        found.add_row(c.claim, str(c.printed), value, c.verdict, c.reason or c.reading)
    console.print(found)
    counts = Counter(c.verdict for c in claims)
    console.print(", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()))


@app.command("reasoning")
def check_reasoning(
    predictions: Annotated[Path, typer.Argument(help="Predictions with reasoning")],
    truth: Annotated[
        Path | None, typer.Option(help="A simulation's truth folder, to check every statement exactly")
    ] = None,
    draws: Annotated[int, typer.Option(min=10)] = 2000,
    as_json: Json = False,
) -> None:
    """What the reasoning is worth: form, grounding, consistency, right for the wrong reason; on simulated
    frames the truth of every statement; and the causal probes of a run, where they lie beside the file.

    Example: surgr1 bench reasoning runs/demo/bench/refine/predictions.jsonl --truth runs/demo/sim/truth
    """
    from surgr1.bench.predictions import PredictionError, read_predictions
    from surgr1.bench.report_tables import reasoning_table
    from surgr1.pipeline.measure import reasoning

    found = reasoning(list(read_predictions(predictions)), predictions.parent, draws=draws, truth=truth)
    if not found:
        raise PredictionError(f"{predictions}: no answer was asked to reason")
    probes = predictions.parent / "probes.json"
    if probes.is_file():
        found["probes"] = json.loads(probes.read_text(encoding="utf-8"))
    if as_json:
        show(found, True)
        return
    print(reasoning_table(found))


@app.command()
def page(
    folders: Annotated[list[Path], typer.Argument(help="Folders with scores.json and predictions.jsonl")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the page")] = Path("runs/page"),
    title: Annotated[str, typer.Option()] = "SurgBench",
) -> None:
    """One page that compares models: leaderboard, radars, every sample; beside it the tables as Markdown, CSV
    and LaTeX. Works offline from disk.

    Example: surgr1 bench page runs/demo/bench/sft runs/demo/bench/refine --out runs/page
    """
    from surgr1.bench.report import model_page

    written = model_page(folders, out, title=title)
    console.print(f"page: [bold]{written}[/]")


@app.command("export")
def export_tasks(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option("--out", help="New folder of the tasks")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder with the data (default: the recipe's own)")
    ] = None,
    data: Data = None,
    settings: Set = None,
    reasoning: Annotated[bool, typer.Option("--reasoning/--direct")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 1024,
) -> None:
    """Write a recipe's evaluation questions as lmms-eval tasks (docs/lmms-eval.md). Data that may not leave
    is refused.

    Example: surgr1 bench export recipes/demo.yaml --out runs/lmms-tasks
    """
    from surgr1.bench.lmms_eval import export
    from surgr1.pipeline.stages import Run, bench_samples

    loaded, folder = open_recipe(recipe, run, data, settings)
    built = Run(loaded, folder, console)
    samples = bench_samples(built, ("test", "external"))
    written = export(samples, built.images(samples), out, reasoning=reasoning, max_new_tokens=max_new_tokens)
    console.print(f"{len(written)} tasks in {out}")
