"""Monitor a pre-training run: collapse metrics, forces of the loss terms, kNN accuracy, TensorBoard."""

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msbreg.backbones.resnet import embed, normalize
from msbreg.backbones.spread import dimension_std, effective_rank, rankme, singular_spectrum
from msbreg.data.images import LabeledImages, balanced_subset, held_out_tail
from msbreg.data.transforms import EvaluationTransform
from msbreg.neighbors import nearest, weighted_vote
from msbreg.run.errors import UserError
from msbreg.run.job import log
from pretrain.event_file import EventFile
from pretrain.losses import singular_value_input
from pretrain.methods.method import Method
from pretrain.recipe import DiagnosticsSettings
from pretrain.training import PreTraining

# ---- Collapse metrics and kNN accuracy, as pure functions


def covariance_eigenvalues(
    inputs: Tensor,  # (N, D), N >= 2
) -> Tensor:  # (D,)
    """Eigenvalues of the covariance over the images, with divisor N - 1; in descending order.

    The singular value loss is the sum of their squared distances from 1 (MSBReg, Eq. 5-7). At least
    D - N + 1 of them are 0 if N <= D.

    >>> spread = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    >>> [round(value, 4) for value in covariance_eigenvalues(spread).tolist()]
    [1.3333, 1.3333]
    """
    images, dimensions = inputs.shape
    values = torch.linalg.svdvals(inputs - inputs.mean(0)).square() / (images - 1)
    return F.pad(values, (0, dimensions - len(values)))


def identity_report(
    predictions: Tensor,  # (N, D), N >= 2
    *,
    singular_input: str,
) -> dict[str, float]:
    """How far the covariance is from the identity, which the singular value loss aims for.

    - identity_deviation: mean of ``(eigenvalue - 1)^2`` over the D dimensions; 0 for the identity, 1 if all
      predictions are equal
    - largest_eigenvalue, smallest_eigenvalue

    Args:
        singular_input: how predictions enter the covariance; see ``singular_value_input``.
    """
    values = covariance_eigenvalues(singular_value_input(predictions, singular_input))
    return {
        "identity_deviation": float((values - 1).square().mean()),
        "largest_eigenvalue": float(values[0]),
        "smallest_eigenvalue": float(values[-1]),
    }


def force_report(
    forces: Mapping[str, Tensor],  # each (M, D)
) -> dict[str, float]:
    """The strength of each term of the loss, its share, and whether terms pull in the same direction.

    - force/TERM: norm of its gradient with respect to an embedding, averaged over the M embeddings
    - force_share/TERM: that, divided by the sum over all terms; in [0, 1]. 0 if all forces are 0
    - force_cosine/TERM,TERM: cosine between the forces of two terms on all embeddings together. -1 if they
      cancel in direction; 0 also if one of them is 0

    >>> report = force_report({"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[-15.0, 0.0]])})
    >>> report["force/a"], report["force_share/a"], round(report["force_cosine/a,b"], 4)
    (5.0, 0.25, -0.6)
    """
    norms = {name: float(force.norm(dim=-1).mean()) for name, force in forces.items()}
    total = sum(norms.values()) or 1.0
    report = {f"force/{name}": norm for name, norm in norms.items()}
    report |= {f"force_share/{name}": norm / total for name, norm in norms.items()}
    for one, other in itertools.combinations(forces, 2):
        cosine = F.cosine_similarity(forces[one].flatten(), forces[other].flatten(), dim=0)
        report[f"force_cosine/{one},{other}"] = float(cosine)
    return report


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
        batch: the K views of a batch to measure forces on, (K, B, 3, S, S) uint8; None disables them.
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
        batch: Tensor | None,
        labeled: LabeledImages | None,
        size: int,
        device: torch.device,
        first_step: int,
    ) -> None:
        self.settings, self.views, self.batch, self.device = settings, views, batch, device
        self.transform = EvaluationTransform(resize=size, crop=size)
        self.board = EventFile(output / "tensorboard", first_step=first_step + 1)
        self.bank = self.queries = None
        if labeled is not None:
            bank, queries = held_out_tail(labeled, settings.queries)
            self.bank = self._pixels(bank, settings.bank)
            self.queries = self._pixels(queries, settings.queries)
            self.classes = len(labeled.classes)

    def evaluate(self, training: PreTraining) -> dict[str, Any]:
        """All metrics of the networks in eval mode; what training changes is left as it is."""
        method = training.method
        was_training = method.trained.training
        for network in method.networks().values():
            network.eval()
        with torch.inference_mode():
            report = self._embeddings(method)
            if self.bank is not None and self.queries is not None:
                report |= self._knn(method)
        report |= self._forces(training)
        if was_training:
            method.train_mode()
        return report

    def _embeddings(self, method: Method) -> dict[str, Any]:
        """Metrics of the embeddings of the fixed views, and of the features below and the outputs above."""
        backbone = method.networks()["online"].get_submodule("backbone")
        with _Recorded(backbone) as features:
            first = self._batched(method.project, self.views[0])
        second = self._batched(method.project, self.views[1])
        parts = first.to(self.device).split(BATCH)
        predictions = torch.cat([method.predict(part).float().cpu() for part in parts])
        return {
            **embedding_report(first, second, t=self.settings.uniformity_t),
            "rankme": rankme(first),
            "rankme_backbone": rankme(torch.cat(features.parts)),
            **identity_report(predictions, singular_input=method.config.loss.singular_input),
        }

    def _knn(self, method: Method) -> dict[str, float]:
        """kNN top-1 of the backbone features; empty if they have no direction."""
        assert self.bank is not None
        assert self.queries is not None
        features = functools.partial(embed, method.backbone())
        bank, bank_labels = self.bank
        queries, query_labels = self.queries
        try:
            accuracy = knn_top1(
                self._batched(features, bank).numpy(),
                bank_labels,
                self._batched(features, queries).numpy(),
                query_labels,
                classes=self.classes,
            )
        except UserError as error:  # features of a collapsed network have no direction
            log.warning("no kNN accuracy: %s", error)
            return {}
        return {"knn_top1": accuracy}

    def _forces(self, training: PreTraining) -> dict[str, float]:
        """The forces of the terms on the batch; a loss without several terms is not asked again."""
        if self.batch is None:
            return {}
        forces = training.forces(self.batch)
        if not forces:
            self.batch = None
        return force_report(forces)

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


class _Recorded:
    """Inside the context, keeps the pooled features that a backbone computes: ``parts``, each (B, C)."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.parts: list[Tensor] = []

    def __enter__(self) -> "_Recorded":
        def keep(module: nn.Module, inputs: Any, outputs: Mapping[str, Tensor]) -> None:
            self.parts.append(outputs["c5"].mean((2, 3)).cpu())

        self.handle = self.backbone.register_forward_hook(keep)
        return self

    def __exit__(self, *failure: object) -> None:
        self.handle.remove()


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


# Entries of a row that are not loss terms; nor are those with a slash.
_MEASURED = (
    *("epoch", "step", "total", "learning_rate", "target_decay", "images_per_second"),
    *("std", "effective_rank", "alignment", "uniformity", "spectrum", "knn_top1"),
    *("rankme", "rankme_backbone"),
    *("identity_deviation", "largest_eigenvalue", "smallest_eigenvalue"),
)


def _terms(row: dict[str, Any]) -> list[str]:
    """The names of the loss terms, for any method."""
    return [name for name in row if name not in _MEASURED and "/" not in name]
