"""The grids of the ablations compared with the tables as the paper prints them (arXiv 2207.03552)."""

import dataclasses
from pathlib import Path

import pytest

from msbreg.run.config import differences, plain
from msbreg.run.options import parse
from pretrain import recipe
from pretrain.ablate import Config, all_rows, base_recipe, config_of_cell
from pretrain.ablation_tables import TABLES, Row
from pretrain.recipe import HeadSettings, LossSettings, OptimizerSettings
from pretrain.training import peak_learning_rate

CARDS = Path(__file__).resolve().parents[2] / "configs"
# A recipe with the paper's own weights and batch sizes.
PAPER = {
    "lambda_s": 0.004,
    "lambda_b": 0.5,
    "loss": LossSettings(singular_input="raw"),
    "head": HeadSettings(hidden=512, out=128),
    "optimizer": OptimizerSettings(base_lr=0.4, warmup_epochs=10),
    "epochs": 300,
}

# method, norm, batch size, lambda_b, accuracy
TABLE_6 = """
BYOL BN 256 0 89.5
Ours BN 256 5e-2 91.4
BYOL LN 256 0 10.6
BYOL+our LN 256 5e-3 75.3
BYOL LN 1024 0 10.6
Ours LN 256 5e-4 80.7
Ours LN 256 5e-3 82.3
Ours LN 256 5e-2 78.7
"""
# method, 100 epochs, 200 epochs, 300 epochs
TABLE_7 = """
BYOL 65.9 70.1 72.3
BYOL+multi-crop 65.8 68.7 70.3
Ours 70.2 73.6 74.4
"""
# method, centroid, Brownian, singular value, accuracy
TABLE_8 = """
BYOL no no no 71.92
BYOL no no yes 72.84
BYOL no yes no 72.84
BYOL no yes yes 72.41
K=4 yes no no 78.24
K=4 yes no yes 79.68
K=4 yes yes no 79.74
K=4 yes yes yes 80.38
K=8 yes no no 79.54
K=8 yes no yes 79.96
K=8 yes yes no 80.28
K=8 yes yes yes 81.56
"""
# three times K, lambda_s, lambda_b, accuracy
TABLE_11 = """
2 0 0 71.9      4 0 0 78.2      8 0 0 79.5
2 0 0.25 72.3   4 0 0.25 79.1   8 0 0.25 80.1
2 0 0.5 72.8    4 0 0.5 79.7    8 0 0.5 80.3
2 0 1.0 72.3    4 0 1.0 79.2    8 0 1.0 80.3
2 0 2.0 71.9    4 0 2.0 79.0    8 0 2.0 80.2
2 0.002 0 72.2  4 0.002 0 78.9  8 0.002 0 79.8
2 0.002 0.25 72.4  4 0.002 0.25 78.8  8 0.002 0.25 80.2
2 0.002 0.5 72.4   4 0.002 0.5 79.1   8 0.002 0.5 80.9
2 0.002 1.0 72.1   4 0.002 1.0 79.2   8 0.002 1.0 81.1
2 0.002 2.0 71.9   4 0.002 2.0 79.2   8 0.002 2.0 80.8
2 0.004 0 72.8     4 0.004 0 79.7     8 0.004 0 80.0
2 0.004 0.25 72.8  4 0.004 0.25 80.2  8 0.004 0.25 80.9
2 0.004 0.5 72.4   4 0.004 0.5 80.4   8 0.004 0.5 81.6
2 0.004 1.0 72.1   4 0.004 1.0 80.1   8 0.004 1.0 81.5
2 0.004 2.0 71.2   4 0.004 2.0 79.9   8 0.004 2.0 81.3
2 0.01 0 71.1      4 0.01 0 79.3      8 0.01 0 79.9
2 0.01 0.25 71.0   4 0.01 0.25 79.4   8 0.01 0.25 81.2
2 0.01 0.5 71.0    4 0.01 0.5 79.2    8 0.01 0.5 81.4
2 0.01 1.0 70.7    4 0.01 1.0 79.2    8 0.01 1.0 81.1
2 0.01 2.0 70.3    4 0.01 2.0 79.0    8 0.01 2.0 79.8
"""


def lines(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def grid(table: str, **changes) -> list[tuple[Row, Config]]:
    """Each row with the settings of its runs."""
    config = Config(table=table, **PAPER | changes)
    return [(row, config_of_cell(config, row, 0)) for row in all_rows(config)]


def test_table_6_has_the_rows_of_the_paper():
    found = [
        (cell.method, cell.add, cell.head_norm, cell.batch_size, cell.lambda_b, row.paper)
        for row, cell in grid("6", batch_size=256)
    ]
    printed = [
        (
            "msbreg" if method == "Ours" else "byol",
            ("brownian",) if method == "BYOL+our" else (),
            norm.lower(),
            int(batch),
            float(weight),
            float(accuracy),
        )
        for method, norm, batch, weight, accuracy in lines(TABLE_6)
    ]
    assert found == printed


def test_rows_of_table_6_keep_the_length_of_the_noise_and_scale_the_batch_of_the_card():
    cells = [cell for _, cell in grid("6", batch_size=32)]
    assert not any(cell.loss.normalize_noise for cell in cells)
    assert [cell.batch_size for cell in cells] == [32, 32, 32, 32, 128, 32, 32, 32]
    assert [cell.views for cell in cells] == [2, 4, 2, 2, 2, 4, 4, 4]


def test_table_7_has_the_rows_of_the_paper():
    found = [
        (cell.method, cell.views, cell.augment.local_views, cell.epochs, row.paper)
        for row, cell in grid("7")
    ]
    methods = {"BYOL": ("byol", 2, 0), "BYOL+multi-crop": ("byol", 2, 6), "Ours": ("msbreg", 4, 0)}
    printed = [
        (*methods[method], epochs, float(accuracy))
        for method, *accuracies in lines(TABLE_7)
        for epochs, accuracy in zip((100, 200, 300), accuracies, strict=True)
    ]
    assert found == printed


def test_multi_crop_of_table_7_has_the_sizes_of_the_paper_and_swavs_areas():
    base = Config(table="7", **PAPER)
    large = dataclasses.replace(base.augment, size=224, crop_area=None)
    (options,) = [c.augment for r, c in grid("7", augment=large) if r.name == "byol-multicrop-100"]
    assert (options.size, options.local_size) == (224, 96)
    assert (options.crop_area, options.local_area) == ((0.14, 1.0), (0.05, 0.14))
    (kept,) = [c.augment for r, c in grid("7") if r.name == "byol-multicrop-100"]
    assert kept.crop_area == base.augment.crop_area


def test_only_the_multi_crop_rows_of_table_7_have_local_views():
    base = Config(table="7", **PAPER)
    cells = grid("7", augment=dataclasses.replace(base.augment, local_views=3))
    assert {r.name.rpartition("-")[0]: c.augment.local_views for r, c in cells} == {
        "byol": 0,
        "byol-multicrop": 6,
        "msbreg": 0,
    }


def test_the_epochs_of_table_7_are_thirds_of_the_cards():
    assert [cell.epochs for _, cell in grid("7", epochs=30)] == [10, 20, 30] * 3


def test_table_8_has_the_rows_of_the_paper():
    found = [
        (cell.method, cell.views, cell.lambda_b, cell.lambda_s, row.paper)
        for row, cell in grid("8")
    ]
    printed = [
        (
            "byol" if method == "BYOL" else "msbreg",
            2 if method == "BYOL" else int(method[-1]),
            0.5 if brownian == "yes" else 0.0,
            0.004 if singular_value == "yes" else 0.0,
            float(accuracy),
        )
        for method, _, brownian, singular_value, accuracy in lines(TABLE_8)
    ]
    assert found == printed


def test_table_11_has_the_rows_of_the_paper():
    found = [
        (cell.views, pytest.approx(cell.lambda_s), pytest.approx(cell.lambda_b), row.paper)
        for row, cell in grid("11")
    ]
    printed = [
        tuple(map(float, line[start : start + 4]))
        for start in (0, 4, 8)
        for line in lines(TABLE_11)
    ]
    assert printed == found
    assert len(found) == 60


@pytest.mark.parametrize("table", ["8", "11"])
def test_rows_with_two_views_are_byol_with_the_terms_whose_weight_is_not_zero(table):
    for row, cell in grid(table):
        if cell.views == 2:
            weights = {"singular_value": cell.lambda_s, "brownian": cell.lambda_b}
            assert cell.method == "byol", row.name
            assert cell.add == tuple(name for name, weight in weights.items() if weight > 0)
        else:
            assert (cell.method, cell.add) == ("msbreg", ()), row.name


def test_weights_of_table_11_are_multiples_of_the_cards():
    cells = {row.name: cell for row, cell in grid("11", lambda_s=0.1, lambda_b=2.0)}
    assert cells["k4-s0.002-b0.25"].lambda_s == pytest.approx(0.05)
    assert cells["k4-s0.002-b0.25"].lambda_b == pytest.approx(1.0)


def test_the_learning_rate_grows_with_the_number_of_views():
    peaks = {cell.views: peak_learning_rate(cell) for _, cell in grid("8", batch_size=512)}
    assert peaks == pytest.approx({2: 1.6, 4: 3.2, 8: 6.4})


@pytest.mark.parametrize("table", sorted(TABLES))
def test_rows_have_different_names_and_set_what_the_table_fixes(table):
    base = base_recipe(Config(table=table, **PAPER))
    rows = list(TABLES[table].rows(base))
    assert len({row.name for row in rows}) == len(rows)
    assert len({tuple(row.columns) for row in rows}) == 1
    set_somewhere = {name for row in rows for name in row.settings}
    assert set(TABLES[table].fixed) <= set_somewhere
    assert all({"method", "add", "views"} <= row.settings.keys() for row in rows)


@pytest.mark.parametrize(
    ("base", "table", "row", "card"),
    [
        ("stl10_r18_msbreg_ln", "6", "byol-ln-256-0", "stl10_r18_byol_ln"),
        ("stl10_r18_msbreg_ln", "6", "byol-ln-256-0.005", "stl10_r18_byol_ln_brownian"),
        ("stl10_r18_msbreg_ln", "6", "msbreg-ln-256-0.005", "stl10_r18_msbreg_ln"),
        ("imagenet_r50_msbreg", "7", "byol-300", "imagenet_r50_byol_paper"),
        ("imagenet_r50_msbreg", "7", "byol-multicrop-300", "imagenet_r50_byol_multicrop"),
        ("imagenet_r50_msbreg", "7", "msbreg-100", "imagenet_r50_msbreg_100ep"),
        ("imagenet_r50_msbreg", "7", "msbreg-200", "imagenet_r50_msbreg_200ep"),
        ("imagenet100_r18_msbreg", "8", "k2", "imagenet100_r18_byol"),
        ("imagenet100_r18_msbreg", "8", "k8-b-s", "imagenet100_r18_msbreg_k8"),
        ("imagenet100_r18_msbreg", "11", "k4-s0.004-b0.5", "imagenet100_r18_msbreg"),
    ],
)
def test_a_row_has_the_settings_of_the_card_for_it(base, table, row, card):
    config, _ = parse(Config, [f"--config={CARDS / base}.yaml", f"--table={table}"])
    (chosen,) = [one for one in all_rows(config) if one.name == row]
    cell = config_of_cell(config, chosen, 0)
    expected, _ = parse(recipe.Config, [f"--config={CARDS / card}.yaml"])
    unused = {"output", "finished"}
    if cell.method == "byol":  # weights of terms that are not added
        unused |= {"lambda_s"} | ({"lambda_b"} if not cell.add else set())
        unused |= {"loss.normalize_noise"} if not cell.add else set()
    differing = differences(plain(cell), plain(expected))
    assert {name: v for name, v in differing.items() if name not in unused} == {}
