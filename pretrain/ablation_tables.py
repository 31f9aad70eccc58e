"""The grids of the ablations in MSBReg's paper (arXiv 2207.03552): Tables 6, 7, 8 and 11, with its numbers.

A row changes a few settings of a base recipe, a card of MSBReg. With the cards for the paper's data
(configs/stl10_r18_msbreg_ln.yaml, imagenet_r50_msbreg.yaml, imagenet100_r18_msbreg.yaml), the rows have the
paper's values.

This module does not import PyTorch, so that options can be checked before it is loaded.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pretrain.recipe import Config

# ---- The numbers of the paper: linear classification, top-1 in percent

# Table 6, which Table 13 repeats: method, norm of the heads, batch size, lambda_b, accuracy.
# BYOL with a lambda_b is "BYOL + our L_b". 10.6 is a collapse.
TABLE_6 = (
    ("byol", "bn", 256, 0.0, 89.5),
    ("msbreg", "bn", 256, 5e-2, 91.4),
    ("byol", "ln", 256, 0.0, 10.6),
    ("byol", "ln", 256, 5e-3, 75.3),
    ("byol", "ln", 1024, 0.0, 10.6),
    ("msbreg", "ln", 256, 5e-4, 80.7),
    ("msbreg", "ln", 256, 5e-3, 82.3),
    ("msbreg", "ln", 256, 5e-2, 78.7),
)

# Table 7: accuracy after 100, 200 and 300 epochs. It compares multi-crop with more views of full size.
TABLE_7_EPOCHS = (100, 200, 300)
TABLE_7 = {
    "byol": (65.9, 70.1, 72.3),
    "byol-multicrop": (65.8, 68.7, 70.3),
    "msbreg": (70.2, 73.6, 74.4),
}

# Table 8: number of views K, Brownian loss, singular value loss, accuracy. K = 2 is BYOL (A7).
TABLE_8 = (
    (2, False, False, 71.92),
    (2, False, True, 72.84),
    (2, True, False, 72.84),
    (2, True, True, 72.41),
    (4, False, False, 78.24),
    (4, False, True, 79.68),
    (4, True, False, 79.74),
    (4, True, True, 80.38),
    (8, False, False, 79.54),
    (8, False, True, 79.96),
    (8, True, False, 80.28),
    (8, True, True, 81.56),
)

# Table 11: number of views K, then lambda_s -> accuracy for each lambda_b of the first line. K = 2 is BYOL.
TABLE_11_LAMBDA_B = (0.0, 0.25, 0.5, 1.0, 2.0)
TABLE_11 = {
    2: {
        0.0: (71.9, 72.3, 72.8, 72.3, 71.9),
        0.002: (72.2, 72.4, 72.4, 72.1, 71.9),
        0.004: (72.8, 72.8, 72.4, 72.1, 71.2),
        0.01: (71.1, 71.0, 71.0, 70.7, 70.3),
    },
    4: {
        0.0: (78.2, 79.1, 79.7, 79.2, 79.0),
        0.002: (78.9, 78.8, 79.1, 79.2, 79.2),
        0.004: (79.7, 80.2, 80.4, 80.1, 79.9),
        0.01: (79.3, 79.4, 79.2, 79.2, 79.0),
    },
    8: {
        0.0: (79.5, 80.1, 80.3, 80.3, 80.2),
        0.002: (79.8, 80.2, 80.9, 81.1, 80.8),
        0.004: (80.0, 80.9, 81.6, 81.5, 81.3),
        0.01: (79.9, 81.2, 81.4, 81.1, 79.8),
    },
}
LAMBDA_S, LAMBDA_B = 0.004, 0.5  # the paper's defaults (§4.5): a card's own weights stand for these


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: name of the row and of its folder.
        columns: what the paper prints in the row, by heading.
        settings: settings that differ from the base recipe, by dotted name.
        paper: the published accuracy, in percent.
    """

    name: str
    columns: Mapping[str, str]
    settings: Mapping[str, Any]
    paper: float


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        title: what it compares.
        data: data set and network of the published accuracies.
        fixed: settings that every row sets, whatever the base recipe says.
        rows: the rows for a base recipe.
    """

    title: str
    data: str
    fixed: tuple[str, ...]
    rows: Callable[[Config], Iterator[Row]]


# ---- How a row translates to settings


def with_terms(views: int, lambda_s: float, lambda_b: float, *, byol: bool) -> dict[str, Any]:
    """MSBReg with these weights, or BYOL with the terms whose weight is not 0 on top.

    The learning rate grows with the number of views, also for BYOL (A26; ``optimizer.scale_by_views``).
    """
    weights = {"singular_value": lambda_s, "brownian": lambda_b}
    added = tuple(name for name, weight in weights.items() if weight > 0)
    return {
        "method": "byol" if byol else "msbreg",
        "views": views,
        "add": added if byol else (),
        "lambda_s": lambda_s,
        "lambda_b": lambda_b,
    }


def _rows_6(base: Config) -> Iterator[Row]:
    """Batch sizes are multiples of the card's, which stands for 256. K and lambda_s are the card's.

    The weights are used as printed, with noise that is not normalized: its length, about 11 in 128
    dimensions, is what these weights lack in comparison with the other tables (A21).
    """
    for method, norm, batch, weight, paper in TABLE_6:
        byol = method == "byol"
        terms = with_terms(
            2 if byol else base.views, 0.0 if byol else base.lambda_s, weight, byol=byol
        )
        yield Row(
            f"{method}-{norm}-{batch}-{weight:g}",
            {
                "method": "MSBReg" if not byol else "BYOL" + (" + Brownian" if weight else ""),
                "norm": norm.upper(),
                "batch": str(batch),
                "λ_b": f"{weight:g}",
            },
            terms
            | {
                "head_norm": norm,
                "batch_size": base.batch_size * batch // 256,
                "loss.normalize_noise": False,
            },
            paper,
        )


def _rows_7(base: Config) -> Iterator[Row]:
    """The card's epochs stand for 300. Local views have 96/224 of the size of a view (§4.4)."""
    whole = {"augment.local_views": 0}
    byol = with_terms(2, 0.0, 0.0, byol=True)
    msbreg = with_terms(base.views, base.lambda_s, base.lambda_b, byol=False)
    local = {
        "augment.local_views": 6,
        "augment.local_size": max(8, round(base.augment.size * 96 / 224)),
        "augment.crop_area": base.augment.crop_area or (0.14, 1.0),  # SwAV's (A29)
        "loss.local_targets": True,
    }
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "byol": ("BYOL", byol | whole),
        "byol-multicrop": ("BYOL + multi-crop", byol | local),
        "msbreg": (f"MSBReg (K = {base.views})", msbreg | whole),
    }
    for name, (label, settings) in methods.items():
        for epochs, paper in zip(TABLE_7_EPOCHS, TABLE_7[name], strict=True):
            share = {"epochs": max(1, round(base.epochs * epochs / TABLE_7_EPOCHS[-1]))}
            columns = {"method": label, "epochs": str(epochs)}
            yield Row(f"{name}-{epochs}", columns, settings | share, paper)


def _rows_8(base: Config) -> Iterator[Row]:
    """A term that is on has the card's weight."""
    for views, brownian, singular_value, paper in TABLE_8:
        on = {"b": brownian, "s": singular_value}
        yield Row(
            "-".join([f"k{views}", *(name for name in on if on[name])]),
            {
                "method": "BYOL" if views == 2 else f"MSBReg (K = {views})",
                "centroid": "no" if views == 2 else "yes",
                "Brownian": "yes" if brownian else "no",
                "singular value": "yes" if singular_value else "no",
            },
            with_terms(
                views,
                base.lambda_s if singular_value else 0.0,
                base.lambda_b if brownian else 0.0,
                byol=views == 2,
            ),
            paper,
        )


def _rows_11(base: Config) -> Iterator[Row]:
    """The weights are multiples of the card's, which stand for 0.004 and 0.5."""
    for views, of_lambda_s in TABLE_11.items():
        for lambda_s, accuracies in of_lambda_s.items():
            for lambda_b, paper in zip(TABLE_11_LAMBDA_B, accuracies, strict=True):
                yield Row(
                    f"k{views}-s{lambda_s:g}-b{lambda_b:g}",
                    {"K": str(views), "λ_s": f"{lambda_s:g}", "λ_b": f"{lambda_b:g}"},
                    with_terms(
                        views,
                        base.lambda_s * (lambda_s / LAMBDA_S),
                        base.lambda_b * (lambda_b / LAMBDA_B),
                        byol=views == 2,
                    ),
                    paper,
                )


IMAGENET100 = "ImageNet-100, ResNet-18"
TABLES = {
    "6": PaperTable(
        "Brownian loss against collapse without BatchNorm",
        "STL-10, ResNet-18",
        ("method", "add", "head_norm", "lambda_b", "loss.normalize_noise"),
        _rows_6,
    ),
    "7": PaperTable(
        "More views against multi-crop",
        "ImageNet, ResNet-50",
        ("method", "add", "loss.local_targets", "augment.local_views", "augment.local_size"),
        _rows_7,
    ),
    "8": PaperTable("Terms of the loss", IMAGENET100, ("method", "add", "views"), _rows_8),
    "11": PaperTable("Weights of the terms", IMAGENET100, ("method", "add", "views"), _rows_11),
}
"""Number of the table -> the table."""
