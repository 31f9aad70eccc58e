"""Monitor a pre-training run: collapse metrics of the embeddings, kNN accuracy, TensorBoard."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msbreg.backbones.resnet import embed, normalize
from msbreg.data.images import LabeledImages, balanced_subset, held_out_tail
from msbreg.data.transforms import EvaluationTransform
from msbreg.neighbors import nearest, weighted_vote
from msbreg.run.errors import UserError
from msbreg.run.job import log
from pretrain.event_file import EventFile
from pretrain.methods.method import Method
from pretrain.recipe import DiagnosticsSettings

# ---- Collapse metrics and kNN accuracy, as pure functions


def dimension_std(
    embeddings: Tensor,  # (N, D)
) -> float:
    """Standard deviation of the normalized embeddings, averaged over dimensions, times sqrt(D).

    1 if the embeddings are spread evenly over the sphere, 0 if all are equal (SimSiam, arXiv 2011.10566,
    §4.1).

    >>> generator = torch.Generator().manual_seed(0)
    >>> round(dimension_std(torch.randn(10_000, 16, generator=generator)), 2)
    1.0
    """
    return float(F.normalize(embeddings, dim=-1).std(0).mean() * embeddings.shape[1] ** 0.5)


def singular_spectrum(
    embeddings: Tensor,  # (N, D)
) -> Tensor:  # (min(N, D),)
    """Singular values of the centered, normalized embeddings, divided by sqrt(N); in descending order."""
    unit = F.normalize(embeddings, dim=-1)
    return torch.linalg.svdvals(unit - unit.mean(0)) / len(unit) ** 0.5


def effective_rank(
    spectrum: Tensor,  # (M,)
) -> float:
    """Exponential of the entropy of the singular values, normalized to sum to 1; in [1, M].

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007). Returns 1 if all singular values are 0, that is,
    if all embeddings are equal.

    >>> round(effective_rank(torch.ones(4)), 4), round(effective_rank(torch.tensor([1.0, 0, 0])), 4)
    (4.0, 1.0)
    """
    total = spectrum.sum()
    if total <= 0:
        return 1.0
    shares = spectrum / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def alignment(
    first: Tensor,  # (N, D)
    second: Tensor,  # (N, D)
) -> float:
    """Mean squared distance between the normalized embeddings of two views of each image; in [0, 4].

    Wang and Isola, arXiv 2005.10242, with exponent 2.
    """
    return float((F.normalize(first, dim=-1) - F.normalize(second, dim=-1)).square().sum(-1).mean())


def uniformity(
    embeddings: Tensor,  # (N, D), N >= 2
    *,
    t: float = 2.0,
) -> float:
    """Log of the mean Gaussian potential over all pairs of normalized embeddings; in [-4t, 0].

    Wang and Isola, arXiv 2005.10242. 0 if all embeddings are equal; about -2t if they are spread evenly in
    many dimensions.
    """
    squared_distances = torch.pdist(F.normalize(embeddings, dim=-1)).square()
    return float(squared_distances.mul(-t).exp().mean().log())


def embedding_report(
    first: Tensor,  # (N, D)
    second: Tensor,  # (N, D)
    *,
    t: float,
) -> dict[str, float | list[float]]:
    """All metrics above for the embeddings of two views of N images, by name."""
    spectrum = singular_spectrum(first)
    return {
        "std": dimension_std(first),
        "effective_rank": effective_rank(spectrum),
        "alignment": alignment(first, second),
        "uniformity": uniformity(first, t=t),
        "spectrum": [float(value) for value in spectrum],
    }


def describe_collapse(
    report: dict[str, float | list[float]], *, least_std: float, least_rank: float
) -> str:
    """A sentence that describes a collapse of the embeddings; empty if there is none."""
    std, rank = report["std"], report["effective_rank"]
    assert isinstance(std, float)
    assert isinstance(rank, float)
    signs = []
    if std < least_std:
        signs.append(f"their spread per dimension is {std:.3f} of the ideal (minimum {least_std})")
    if rank < least_rank:
        signs.append(f"their effective rank is {rank:.1f} (minimum {least_rank})")
    return f"the embeddings are collapsing: {' and '.join(signs)}" if signs else ""


def knn_top1(
    bank: np.ndarray,  # (N, C)
    bank_labels: np.ndarray,  # (N,)
    queries: np.ndarray,  # (Q, C)
    query_labels: np.ndarray,  # (Q,)
    *,
    classes: int,
    k: int = 20,
) -> float:
    """Top-1 accuracy, in percent, of the weighted vote of the k nearest neighbors; for monitoring only."""
    similarities, indices = nearest(queries, bank, min(k, len(bank)))
    scores = weighted_vote(similarities, bank_labels[indices], classes)
    return float((scores.argmax(1) == query_labels).mean() * 100)


# ---- The monitor of a run


BATCH = 250


class Monitor:
    """Evaluates the networks during training and writes to TensorBoard; main process only.

    Args:
        views: two fixed views of some images, (2, N, 3, S, S) uint8.
        labeled: labeled training images for kNN; None disables kNN. The queries are held out of the bank.
            The test split is not used, because recipes are chosen by this accuracy.
        size: image size for kNN, in pixels.
        first_step: number of completed steps; TensorBoard discards later entries of an interrupted run.
    """

    def __init__(
        self,
        output: Path,
        settings: DiagnosticsSettings,
        *,
        views: Tensor,
        labeled: LabeledImages | None,
        size: int,
        device: torch.device,
        first_step: int,
    ) -> None:
        self.settings, self.views, self.device = settings, views, device
        self.transform = EvaluationTransform(resize=size, crop=size)
        self.board = EventFile(output / "tensorboard", first_step=first_step + 1)
        self.bank = self.queries = None
        if labeled is not None:
            bank, queries = held_out_tail(labeled, settings.queries)
            self.bank = self._pixels(bank, settings.bank)
            self.queries = self._pixels(queries, settings.queries)
            self.classes = len(labeled.classes)

    def evaluate(self, method: Method) -> dict[str, Any]:
        """Collapse metrics of the embeddings and, with labels, kNN top-1 of the backbone features."""
        was_training = method.trained.training
        for network in method.networks().values():
            network.eval()
        with torch.inference_mode():
            first, second = (self._batched(method.project, view) for view in self.views)
            report: dict[str, Any] = embedding_report(first, second, t=self.settings.uniformity_t)
            if self.bank is not None and self.queries is not None:
                features = functools.partial(embed, method.backbone())
                bank, bank_labels = self.bank
                queries, query_labels = self.queries
                try:
                    report["knn_top1"] = knn_top1(
                        self._batched(features, bank).numpy(),
                        bank_labels,
                        self._batched(features, queries).numpy(),
                        query_labels,
                        classes=self.classes,
                    )
                except UserError as error:  # features of a collapsed network have no direction
                    log.warning("no kNN accuracy: %s", error)
        if was_training:
            method.train_mode()
        return report

    def write(self, row: dict[str, Any]) -> None:
        """Write one row of the curve to TensorBoard."""
        for name, value in row.items():
            if name == "spectrum":
                self.board.add_histogram("spectrum", np.array(value), row["step"])
            elif name not in ("epoch", "step"):
                self.board.add_scalar(name, value, row["step"])

    def collapse(self, report: dict[str, Any]) -> str:
        """A sentence that describes a collapse; empty if there is none."""
        return describe_collapse(
            report, least_std=self.settings.least_std, least_rank=self.settings.least_rank
        )

    def _pixels(self, images: LabeledImages, most: int) -> tuple[Tensor, np.ndarray]:
        chosen = balanced_subset(images, min(most, len(images)), seed=0)
        assert chosen.labels is not None
        pixels = np.stack([self.transform(chosen.image(i)) for i in range(len(chosen))])
        return torch.from_numpy(pixels), chosen.labels

    def _batched(
        self,
        network: Callable[[Tensor], Tensor],
        pixels: Tensor,  # (N, 3, S, S) uint8
    ) -> Tensor:  # (N, D), on the CPU
        parts = [network(normalize(part, self.device)).cpu() for part in pixels.split(BATCH)]
        return torch.cat(parts)


def describe(row: dict[str, Any]) -> str:
    """Format a row of the curve as one line for the log."""
    parts = [f"epoch {row['epoch']}"]
    if "total" in row:
        terms = ", ".join(f"{name} {row[name]:.4g}" for name in _terms(row))
        parts.append(f"loss {row['total']:.4f}" + (f" ({terms})" if terms else ""))
    if "std" in row:
        parts.append(f"std {row['std']:.2f}, rank {row['effective_rank']:.1f}")
    if "knn_top1" in row:
        parts.append(f"kNN {row['knn_top1']:.1f} %")
    return "  ".join(parts)


# Entries of a row that are not loss terms.
_MEASURED = (
    *("epoch", "step", "total", "learning_rate", "target_decay", "images_per_second"),
    *("std", "effective_rank", "alignment", "uniformity", "spectrum", "knn_top1"),
)


def _terms(row: dict[str, Any]) -> list[str]:
    """The names of the loss terms, for any method."""
    return [name for name in row if name not in _MEASURED]
