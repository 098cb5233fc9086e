"""`surgr1 data ...`: sources, doctor, licence, frames, leaks, build, show, export."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from surgr1.cli.app import Data, Json, Out, Set, console, dataset_folders, show

app = typer.Typer(no_args_is_help=True, help="Datasets: native trees to samples.")

Roots = Annotated[list[Path], typer.Argument(help="Folders with downloaded datasets")]
Skip = Annotated[bool, typer.Option("--labels-only", help="Read labels alone, look for no picture")]


def _table(*columns: str) -> Table:
    return Table(Column(columns[0], no_wrap=True), *(Column(c, overflow="fold") for c in columns[1:]))


@app.command()
def sources(
    verify: Annotated[
        bool, typer.Option("--verify", help="Simulate, read back and break every layout now (minutes)")
    ] = False,
    record: Annotated[
        Path | None, typer.Option("--record", help="Where to keep what --verify found (evidence.json)")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/datasets.md")] = False,
    as_json: Json = False,
) -> None:
    """Every dataset: the paper's count, how its layout is known, tasks, splits, round trip, damages tried.

    Example: surgr1 data sources --json
    """
    from surgr1.simulator.evidence import gather, recorded, source_rows, to_markdown

    if verify:
        with console.status("verifying") as status:
            evidence = gather(lambda layout: status.update(f"verifying {layout}"))
        if record is not None:
            record.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    else:
        evidence = recorded()
    rows = source_rows(evidence)
    if markdown:
        print(to_markdown(rows))
    elif as_json:
        show(rows, as_json)
    else:
        table = _table("dataset", "task type", "paper", "tasks", "splits", "round trip", "damages noticed")
        for row in rows:
            paper = f"{row['paper_images']:,}" if row["paper_images"] else "-"
            table.add_row(
                row["dataset"],
                row["task_type"],
                paper,
                ", ".join(row["tasks"]),
                ", ".join(row["splits"]),
                row["round_trip"],
                row["corruptions"],
            )
        console.print(table)


@app.command()
def doctor(roots: Roots, labels_only: Skip = False, as_json: Json = False) -> None:
    """Recognise the datasets under folders, read them whole and say what is missing or wrong. Exits 1 unless
    everything is complete.

    Example: surgr1 data doctor /data --json
    """
    from surgr1.corpora.doctor import diagnose

    with console.status("reading") as status:
        found = diagnose(
            roots,
            images="skip" if labels_only else "check",
            progress=None if as_json else lambda text: status.update(f"reading {text}"),
        )
    if as_json:
        show(
            {
                "datasets": [f.row() for f in found.findings],
                "unrecognised": [{"folder": str(p), "why": w} for p, w in found.unrecognised],
            },
            as_json,
        )
    else:
        table = _table("dataset", "state", "videos", "frames", "licence acknowledged")
        for f in found.findings:
            table.add_row(
                f.layout,
                f.state,
                f"{f.videos} of {f.expected_videos}" if f.expected_videos else str(f.videos),
                f"{f.frames:,} of {f.expected_frames:,}" if f.expected_frames else f"{f.frames:,}",
                f.acknowledged or f"no: {f.licence}",
            )
        console.print(table)
        for f in found.findings:
            row = f.row()
            if f.missing:
                console.print(f"{f.layout} lacks {', '.join(row['missing'])}", soft_wrap=True)
            for problem in row["problems"]:
                console.print(f"{f.layout}: {problem}", soft_wrap=True)
        for folder, why in found.unrecognised:
            console.print(f"{folder}: {why}", soft_wrap=True)
        if not found.findings:
            console.print("no known dataset")
    if not found.healthy:
        raise typer.Exit(1)


@app.command()
def licence(root: Annotated[Path, typer.Argument(help="A dataset folder")]) -> None:
    """Write down, in the dataset's folder, that you have read its licence and keep it.

    Example: surgr1 data licence /data/cholec80
    """
    from surgr1.corpora.doctor import acknowledge

    for line in acknowledge(root):
        console.print(f"acknowledged: {line}")


@app.command()
def frames(
    root: Annotated[Path, typer.Argument(help="A dataset folder with videos")],
    layout: Annotated[str, typer.Option("--dataset", help="Its layout, where the folder does not say")] = "",
    workers: Annotated[int, typer.Option(help="Videos at a time")] = 2,
    as_json: Json = False,
) -> None:
    """Extract the labelled frames of a dataset's videos into its own folders. Stopped or killed, the same
    command continues.

    Example: surgr1 data frames /data/cholec80
    """
    from dataclasses import asdict

    from surgr1.corpora.frame_plans import find_videos, plan_frames
    from surgr1.corpora.video import extract_all
    from surgr1.pipeline.progress import progress_bar

    jobs = plan_frames(layout, root) if layout else find_videos(root)
    with progress_bar(console, "extracting frames") as advance:
        done = extract_all(jobs, workers=workers, progress=None if as_json else advance)
    if as_json:
        show([asdict(d) for d in done], as_json)
        return
    for found in done:
        for warning in found.warnings:
            console.print(f"{found.video}: {warning}")
    console.print(
        f"{len(done)} videos, {sum(d.pictures for d in done):,} pictures"
        f" ({sum(d.written for d in done):,} written now) under {root}"
    )


@app.command()
def unpack(
    archive: Annotated[Path, typer.Argument(help="zip, tar, tar.gz, tar.bz2 or tar.xz")],
    target: Annotated[Path, typer.Argument(help="Folder to make")],
) -> None:
    """Unpack a downloaded archive, refusing paths and links that lead out of the folder, device files and
    decompression bombs.

    Example: surgr1 data unpack endoscapes.zip /data/endoscapes
    """
    from surgr1.corpora.archives import unpack as unpack_safely

    found = unpack_safely(archive, target)
    console.print(f"{found.files:,} files, {found.bytes:,} bytes in {target}")


Recipe = Annotated[Path | None, typer.Argument(help="Recipe, e.g. recipes/demo.yaml")]
Named = Annotated[str, typer.Option("--recipe", help="The same, or the name of one that ships: surgdb-3m")]
Root = Annotated[
    list[Path] | None, typer.Option("--root", help="Folder to find the recipe's datasets under; repeatable")
]
Allow = Annotated[bool, typer.Option("--allow-missing", help="Leave out datasets that have no folder")]


def _corpus(
    recipe: Path | None,
    named: str,
    roots: list[Path] | None,
    out: Path | None,
    data: list[str] | None,
    settings: list[str] | None,
    allow_missing: bool,
) -> tuple[Any, Path]:
    """The recipe's data and the run folder."""
    from surgr1.corpora.doctor import datasets_under
    from surgr1.pipeline.recipe import RecipeError, load_corpus

    path = recipe or (Path(named) if named else None)
    if path is None:
        raise RecipeError("name a recipe, e.g. `surgr1 data build recipes/demo.yaml` or --recipe surgdb-3m")
    wanted = load_corpus(
        path,
        run_dir=(out or Path("runs") / path.stem).resolve(),
        data=dataset_folders(data),
        found=datasets_under(roots or ()),
        settings=settings or [],
        allow_missing=allow_missing,
    )
    return wanted, (out or Path("runs") / wanted.name).resolve()


@app.command()
def build(
    recipe: Recipe = None,
    named: Named = "",
    root: Root = None,
    allow_missing: Allow = False,
    out: Out = None,
    data: Data = None,
    settings: Set = None,
) -> None:
    """Read a recipe's datasets, check for duplicates and leaks, write Parquet with statistics and a card.

    Example: surgr1 data build --recipe surgdb-3m --root /data --out /data/surgdb-3m
    """
    from surgr1.corpora.build import build as write
    from surgr1.pipeline.progress import progress_bar
    from surgr1.pipeline.recipe import Recipe as WholeRecipe
    from surgr1.pipeline.run import execute

    loaded, folder = _corpus(recipe, named, root, out, data, settings, allow_missing)
    if isinstance(loaded, WholeRecipe):
        if loaded.sim_plan is not None:
            execute(loaded, folder, console, only="simulate")
        execute(loaded, folder, console, only="data")
        return
    with progress_bar(console, "reading datasets") as advance:
        found = write(
            loaded.sources,
            folder,
            isolation=loaded.isolation,
            max_rejects=loaded.max_rejects,
            progress=advance,
        )
    console.print(
        f"{sum(found['dataset'].values()):,} samples of {sum(found['frames'].values()):,} frames in {folder};"
        f" card: {folder / 'README.md'}"
    )


@app.command("show")
def show_samples(
    path: Annotated[Path, typer.Argument(help="A Parquet file of samples, or the folder of a dataset")],
    limit: Annotated[int, typer.Option(help="How many samples")] = 5,
    as_json: Json = False,
) -> None:
    """Print samples of a built dataset.

    Example: surgr1 data show runs/demo/data/sim-cholect50 --limit 3
    """
    from itertools import islice

    from surgr1.corpora.build import corpus_samples
    from surgr1.corpora.schema import read_samples, to_row

    samples = corpus_samples(path.parent, path.name) if path.is_dir() else read_samples(path)
    show([to_row(s) for s in islice(samples, limit)], as_json)


@app.command()
def export(
    corpus: Annotated[Path, typer.Argument(help="A built corpus: the --out of `data build`")],
    to: Annotated[str, typer.Option("--to", help="llama-factory, ms-swift or verl")],
    out: Annotated[Path, typer.Option("--out", help="Where the files and the resized pictures go")],
    role: Annotated[str, typer.Option(help="Which videos: train, validation, test or external")] = "train",
    limit: Annotated[int, typer.Option(help="At most so many samples of a dataset (0: all)")] = 0,
    min_tokens: Annotated[int, typer.Option(help="Least image tokens (28 x 28 pixels each)")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Most image tokens")] = 1280,
) -> None:
    """Write a corpus for another trainer: pictures on their final grid, boxes in their pixels.

    Example: surgr1 data export /data/surgdb-3m --to ms-swift --out /data/swift
    """
    from surgr1.pipeline.export import export_corpus, read_plan
    from surgr1.pipeline.progress import progress_bar

    plan = read_plan(to=to, role=role, limit=limit, min_tokens=min_tokens, max_tokens=max_tokens)
    with progress_bar(console, "exporting") as advance:
        written = export_corpus(corpus, out, plan, progress=advance)
    console.print(f"{written:,} conversations in {out}")


@app.command()
def duplicates(
    corpus: Annotated[Path, typer.Argument(help="A built corpus: the --out of `data build`")],
    every: Annotated[int, typer.Option(min=1, help="Every k-th labelled frame of a video")] = 10,
    distance: Annotated[int, typer.Option(help="Bits of 64 that near-duplicates may differ in")] = 4,
    workers: Annotated[int, typer.Option(help="Processes that hash pictures")] = 2,
    as_json: Json = False,
) -> None:
    """Training pictures that look like an evaluation picture, by perceptual hash. Exits 1 where there are
    any.

    Example: surgr1 data duplicates /data/surgdb-3m
    """
    from dataclasses import asdict

    from surgr1.pipeline.duplicates import corpus_duplicates
    from surgr1.pipeline.progress import progress_bar

    with progress_bar(console, "hashing pictures") as advance:
        found = corpus_duplicates(
            corpus, every=every, distance=distance, workers=workers, progress=None if as_json else advance
        )
    if as_json:
        show(asdict(found), as_json)
    else:
        for pair in found.pairs[:50]:
            console.print(f"{pair.train} (training) is {pair.distance} bits from {pair.evaluation}")
        console.print(
            f"{len(found.pairs)} pairs; left out as flat: {found.flat_train} training and"
            f" {found.flat_evaluation} evaluation pictures"
        )
    if found.pairs:
        raise typer.Exit(1)


@app.command()
def leaks(
    recipe: Recipe = None,
    named: Named = "",
    root: Root = None,
    out: Out = None,
    data: Data = None,
    settings: Set = None,
    evaluate: Annotated[
        list[str] | None, typer.Option("--evaluate", help="Count what this evaluation set costs; repeatable")
    ] = None,
    as_json: Json = False,
) -> None:
    """Which operations training and evaluation sets share, and what a choice of evaluation sets costs in
    training videos: of a recipe's data, or without one of all datasets' default splits. Exits 1 where the
    recipe's training and evaluation share operations that it does not leave out.

    Example: surgr1 data leaks --evaluate cholec80 --evaluate cholect50
    """
    from surgr1.corpora.files import Rejects
    from surgr1.corpora.registry import Isolation, Member, cost, find_leaks, leak_matrix, official_members
    from surgr1.corpora.sources import open_source

    isolation, members = Isolation(leaks="exclude"), official_members()
    if recipe is not None or named:
        loaded, _ = _corpus(recipe, named, root, out, data, settings, True)
        isolation = loaded.isolation
        members = [
            Member(s.dataset, video, role)
            for s in loaded.sources
            for video, role in open_source(s, Rejects(strict=False)).roles.items()
        ]
    matrix = leak_matrix(members)
    chosen = tuple(evaluate or isolation.evaluation)
    sets = [(e,) for e in dict.fromkeys(m.dataset for m in members if m.role != "train")]
    costs = [cost(members, c) for c in [*sets, chosen]]
    if as_json:
        show(
            {
                "training_videos": sum(m.role == "train" for m in members),
                "shared": [
                    {"train": r.train, "evaluation": r.evaluation, "videos": list(r.videos)} for r in matrix
                ],
                "cost": [
                    {"evaluation": list(c.evaluation) or "all", "operations": c.operations, "lost": c.lost}
                    for c in costs
                ],
            },
            as_json,
        )
    else:
        table = _table("trained in", "measured in", "shared operations")
        for r in matrix:
            table.add_row(r.train, r.evaluation, f"{len(r.videos)}: {', '.join(r.videos)}")
        console.print(table)
        table = _table("measured on", "operations held out", "training videos lost, of")
        for c in costs:
            lost = ", ".join(f"{d} {n} of {total}" for d, (n, total) in c.lost.items())
            table.add_row(", ".join(c.evaluation) or "all", str(c.operations), lost or "none")
        console.print(table)
    if isolation.leaks == "refuse" and find_leaks(members, chosen):
        raise typer.Exit(1)
