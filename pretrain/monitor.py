"""What is written down while training: curve.jsonl, TensorBoard, and collapse in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from msbreg.backbones import ResNet, embed
from msbreg.datasets.folder import ImageList, balanced_subset, held_out_tail
from msbreg.errors import UserError
from msbreg.job import log
from msbreg.record import write_atomically
from msbreg.transforms import EvaluationTransform, normalize
from pretrain.diagnostics import collapse_in_words, embedding_report, knn_top1
from pretrain.networks import Online
from pretrain.settings import DiagnosticsSettings

BATCH = 250


class Monitor:
    """Looks at the networks after an epoch. Only the main process has one.

    Args:
        views: two fixed views of some images, (2, N, 3, S, S) uint8.
        labelled: training images with labels, for the kNN monitor; None leaves it out. Queries are
            held out of the bank, and nothing is taken from the test split: recipes are chosen by
            looking at this number.
        size: side in pixels at which they are seen.
    """

    def __init__(
        self,
        output: Path,
        settings: DiagnosticsSettings,
        *,
        views: Tensor,
        labelled: ImageList | None,
        size: int,
        device: torch.device,
        first_step: int,
    ) -> None:
        self.path = output / "curve.jsonl"
        self.settings, self.views, self.device = settings, views, device
        self.transform = EvaluationTransform(resize=size, crop=size)
        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=first_step + 1)
        self.bank = self.queries = None
        if labelled is not None:
            bank, queries = held_out_tail(labelled, settings.queries)
            self.bank = self._pixels(bank, settings.bank)
            self.queries = self._pixels(queries, settings.queries)
            self.classes = len(labelled.classes)

    def look(self, online: Online) -> dict[str, Any]:
        """Collapse signs of the projections and, with labels, kNN top-1 of the backbone's features."""
        was_training = online.training
        online.eval()
        with torch.inference_mode():
            first, second = (self._projections(online, view) for view in self.views)
            report: dict[str, Any] = embedding_report(first, second, t=self.settings.uniformity_t)
            if self.bank is not None and self.queries is not None:
                assert isinstance(online.backbone, ResNet)
                bank, bank_labels = self.bank
                queries, query_labels = self.queries
                try:
                    report["knn_top1"] = knn_top1(
                        self._features(online.backbone, bank),
                        bank_labels,
                        self._features(online.backbone, queries),
                        query_labels,
                        classes=self.classes,
                    )
                except UserError as error:  # features of a collapsed network have no direction
                    log.warning("no kNN accuracy: %s", error)
        online.train(was_training)
        return report

    def write(self, curve: list[dict[str, Any]]) -> None:
        """The whole curve to its file; the last row to TensorBoard."""
        content = "".join(json.dumps(row) + "\n" for row in curve)
        write_atomically(self.path, content.encode())
        for name, value in curve[-1].items():
            if name == "spectrum":
                self.board.add_histogram("spectrum", np.array(value), curve[-1]["step"])
            elif name not in ("epoch", "step"):
                self.board.add_scalar(name, value, curve[-1]["step"])
        self.board.flush()

    def collapse(self, report: dict[str, Any]) -> str:
        """In words; empty while there is none."""
        return collapse_in_words(
            report, least_std=self.settings.least_std, least_rank=self.settings.least_rank
        )

    def close(self) -> None:
        """Let go of TensorBoard's file."""
        self.board.close()

    def _pixels(self, images: ImageList, most: int) -> tuple[Tensor, np.ndarray]:
        chosen = balanced_subset(images, min(most, len(images)), seed=0)
        assert chosen.labels is not None
        pixels = np.stack([self.transform(chosen.read(i)) for i in range(len(chosen))])
        return torch.from_numpy(pixels), chosen.labels

    def _projections(self, online: Online, view: Tensor) -> Tensor:
        return torch.cat(
            [
                online.projector(embed(online.backbone, normalize(part, self.device))).cpu()
                for part in view.split(BATCH)
            ]
        )

    def _features(self, backbone: ResNet, pixels: Tensor) -> np.ndarray:
        parts = [
            embed(backbone, normalize(part, self.device)).cpu() for part in pixels.split(BATCH)
        ]
        return torch.cat(parts).numpy()


def describe(row: dict[str, Any]) -> str:
    """One epoch's row in a line for the log."""
    words = [f"epoch {row['epoch']}"]
    if "total" in row:
        words.append(
            f"loss {row['total']:.4f} (centroid {row['centroid']:.4f}, "
            f"singular {row['singular_value']:.2f}, Brownian {row['brownian']:+.4f})"
        )
    if "std" in row:
        words.append(f"std {row['std']:.2f}, rank {row['effective_rank']:.1f}")
    if "knn_top1" in row:
        words.append(f"kNN {row['knn_top1']:.1f} %")
    return "  ".join(words)
