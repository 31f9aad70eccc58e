"""k-nearest-neighbor classification with frozen features.

Exact search by cosine similarity s of global average pools. Neighbors vote with weight exp(s / 0.07), for
k = 20 and 200 (Wu et al., arXiv 1805.01978; DINO, arXiv 2104.14294). W-MSE's variant is a majority vote
of the 5 nearest by Euclidean distance (Ermolov et al., arXiv 2007.06346). Nothing is trained and no
hyperparameter is selected.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import LabeledConfig


@dataclass(frozen=True)
class Config(LabeledConfig):
    """Settings of a kNN evaluation: DATA/train is the bank, DATA/val contains the queries."""

    script: ClassVar[str] = "transfer/knn.py"
    harmless: ClassVar[frozenset[str]] = frozenset({"backend"})  # all give the same neighbors
    added: ClassVar[dict[str, Any]] = LabeledConfig.added | {"metric": "cosine"}

    output: Path = Path("runs/knn")
    """Folder for record.json, log.txt and neighbors.json."""
    k: tuple[int, ...] = (20, 200)
    """Numbers of neighbors. Values larger than the bank are skipped with a warning."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """cosine similarity, or the Euclidean distance of the features as they are (with vote majority)."""
    backend: Literal["auto", "torch", "faiss", "faiss-gpu"] = "auto"
    """Library of the search; all find the same neighbors. auto is torch, on ``device``."""
    temperature: float = 0.07
    """Temperature tau of the weights exp(similarity / tau)."""
    vote: Literal["weighted", "majority"] = "weighted"
    """weighted, or majority: all neighbors have equal weight, and the smallest class index wins ties."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.k or min(self.k) < 1:
            raise UserError(
                f"k is {list(self.k)}; expected integers of 1 or more. Set them with --k"
            )
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; expected a value above 0")
        if self.metric == "euclidean" and self.vote == "weighted":
            raise UserError(
                "metric is euclidean and vote is weighted, but the weights are defined for the cosine; "
                "expected --vote majority"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import numpy as np

from msbreg.data.images import LabeledImages
from msbreg.neighbors import (
    check_backend,
    majority_vote,
    nearest_across_processes,
    weighted_vote,
)
from msbreg.run import distributed
from msbreg.run.files import write_atomically
from msbreg.run.job import Job, log
from transfer.frozen.evaluation import accuracy_scores, evaluate, labeled_splits
from transfer.verdicts.measured import Measured, record_scores


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; accuracies are in percent."""
    return evaluate("knn", config, card, _run)


def _run(config: Config, job: Job) -> dict[str, Any]:
    check_backend(config.backend)

    # ---- Extract the features of both splits.
    bank, queries = labeled_splits(config, job)
    job.record.content["selection"] = "nothing is selected"

    # ---- Search once, with the largest k; smaller ones use the first columns.
    usable = [k for k in config.k if k <= len(bank.labels)]
    for k in sorted(set(config.k) - set(usable)):
        job.warn(f"k = {k} is skipped: the bank has only {len(bank.labels)} images")
    if not usable:
        raise UserError(
            f"k is {list(config.k)}, but the bank has only {len(bank.labels)} images. "
            "Give a smaller --k"
        )
    similarities, indices = nearest_across_processes(
        queries.x,
        bank.x,
        max(usable),
        metric=config.metric,
        backend=config.backend,
        device=job.device,
    )

    # ---- Vote and score.
    classes = len(bank.images.classes)
    results: dict[str, Any] = {}
    scores: list[Measured] = []
    weights = f"exp(s / {config.temperature:g})" if config.vote == "weighted" else "equal"
    metric = "cosine similarity s" if config.metric == "cosine" else "Euclidean distance"
    for k in usable:
        neighbors = bank.labels[indices[:, :k]]
        if config.vote == "weighted":
            votes = weighted_vote(similarities[:, :k], neighbors, classes, config.temperature)
        else:
            votes = majority_vote(neighbors, classes)
        top1, *top5 = accuracy_scores(
            votes,
            queries,
            name=f"{k}-NN",
            rules=f"{metric}, {k} neighbors, weights {weights}",
        )
        scores += [top1, *top5]
        results[f"top1_{k}nn"] = top1.value
        results[f"top1_{k}nn_stderr"] = top1.stderr
        results |= {f"top5_{k}nn": score.value for score in top5}
        log.info("%d-NN top-1: %.2f %%", k, top1.value)
    record_scores(job, scores)
    if distributed.is_main():
        examples = _example_neighbors(bank.images, queries.images, similarities, indices)
        write_atomically(job.output / "neighbors.json", json.dumps(examples, indent=1).encode())
    return results


def _example_neighbors(
    bank: LabeledImages,
    queries: LabeledImages,
    similarities: np.ndarray,  # (Q, k)
    indices: np.ndarray,  # (Q, k)
) -> list[dict[str, Any]]:
    """The first query of each of the first ten classes with its eight nearest neighbors.

    The report shows them. Queries are not chosen by whether they are classified correctly.
    """
    assert bank.labels is not None
    assert queries.labels is not None
    examples = []
    for label in range(min(10, len(queries.classes))):
        query = int(np.flatnonzero(queries.labels == label)[0])
        neighbors = [
            {
                "path": str(Path(bank.name(i)).resolve()),
                "class": bank.classes[bank.labels[i]],
                "similarity": round(float(s), 4),
            }
            for i, s in zip(indices[query, :8], similarities[query, :8], strict=True)
        ]
        path = str(Path(queries.name(query)).resolve())
        examples.append({"path": path, "class": queries.classes[label], "neighbors": neighbors})
    return examples


if __name__ == "__main__":
    main(run, *OPTIONS)
