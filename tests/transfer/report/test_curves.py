"""All numbers in curve.jsonl are drawn; other files are rejected with a reason."""

import json

import pytest

from msbreg.run.errors import UserError
from transfer.report.curves import draw_curve


def drawn(folder, *rows, **numbers):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "curve.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return draw_curve(folder, numbers, "a run")


def test_known_quantities_share_plots_and_unknown_ones_get_their_own(tmp_path):
    rows = [{"epoch": e, "total": 2.0, "centroid": 1.0, "contrast": 3.0} for e in (1, 2)]
    curve = drawn(tmp_path, *rows)
    assert (curve.over, curve.last, curve.rows) == ("epoch", 2.0, 2)
    titles = [
        title for title in ("loss", "centroid", "contrast") if f">{title}</text>" in curve.figure
    ]
    assert titles == ["loss", "centroid", "contrast"]
    assert curve.figure.count("font-weight:600") == 2  # centroid is a line of the losses


def test_loss_terms_are_multiplied_by_their_weights(tmp_path):
    rows = [{"epoch": e, "total": 1.0, "singular_value": 250.0} for e in (1, 2)]
    weighted = drawn(tmp_path, *rows, lambda_s=0.004).figure
    same = [{"epoch": e, "total": 1.0, "singular_value": 1.0} for e in (1, 2)]
    assert weighted == drawn(tmp_path, *same).figure


def test_the_collapse_level_is_read_from_the_settings(tmp_path):
    rows = [{"epoch": e, "std": 0.8} for e in (1, 2)]
    assert "collapse" in drawn(tmp_path, *rows, **{"diagnostics.least_std": 0.1}).figure
    assert "collapse" not in drawn(tmp_path, *rows).figure


def test_scores_are_drawn_if_there_are_several_evaluations(tmp_path):
    losses = [{"iteration": i, "total_loss": 1.0} for i in (1, 2)]
    scores = {"iteration": 2, "scores": {"box_AP": 3.0, "box_AP50": None, "box_APs": 1.0}}
    assert "scores [%]" not in drawn(tmp_path, *losses, scores).figure
    figure = drawn(tmp_path, *losses, scores, scores | {"iteration": 4}).figure
    assert "scores [%]" in figure
    assert "box_APs" not in figure


@pytest.mark.parametrize(
    "value",
    [
        '"high"',
        "NaN",
        "Infinity",
        "1e999",
        "null",
        "[1]",
        "{}",
        "true",
        "9" * 24,
        "-1e300",
        '"<b>"',
    ],
)
@pytest.mark.parametrize("name", ["total", "std", "spectrum", "scores", "loss_cls", "other"])
def test_values_that_cannot_be_drawn_are_omitted(tmp_path, name, value):
    good = '{"epoch": 1, "effective_rank": 4.0, "spectrum": [0.5, 0.1]}'
    curve = drawn(tmp_path, good, f'{{"epoch": 2, "effective_rank": 5.0, "{name}": {value}}}')
    assert "effective rank</text>" in curve.figure
    for word in ("nan", "inf", "<b>", "high"):
        assert word not in curve.figure


@pytest.mark.parametrize("spectrum", [[], ["a"], [1.0, None], [0.0], [-1.0], "text", [1e300]])
def test_any_spectrum_is_drawn_or_omitted(tmp_path, spectrum):
    figure = drawn(tmp_path, {"epoch": 1, "total": 1.0, "spectrum": spectrum}).figure
    assert ("singular values" in figure) == (spectrum in ([0.0], [-1.0]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "neither epoch nor iteration"),
        ("{", "is not valid JSON"),
        ("3", "neither epoch nor iteration"),
        ('{"epoch": "3"}', "neither epoch nor iteration"),
        ('{"epoch": 1e999}', "neither epoch nor iteration"),
        ('{"epoch": 1}\n[]', "neither epoch nor iteration"),
        ("9" * 5_000, "5000 digits"),
        ("[" * 10_000, "nested deeper"),
    ],
)
def test_a_file_that_is_not_a_curve_is_rejected_with_the_reason(tmp_path, content, reason):
    with pytest.raises(UserError, match=reason):
        drawn(tmp_path, content)


def test_a_long_curve_has_a_small_figure_and_a_short_table(tmp_path):
    rows = [{"epoch": e, "total": e % 7, "std": 1.0} for e in range(5_000)]
    curve = drawn(tmp_path, *rows)
    assert len(curve.figure) < 12_000
    assert [row["epoch"] for row in (curve.sample[0], curve.sample[-1])] == [0, 4_999]
    assert len(curve.sample) == 8


def test_alignment_and_uniformity_share_a_plane_with_the_published_points(tmp_path):
    rows = [{"epoch": e, "alignment": 0.1 * e, "uniformity": -e} for e in (0, 1, 2)]
    curve = drawn(tmp_path, *rows)
    assert "uniformity over alignment</text>" in curve.figure
    assert "from epoch 0</text>" in curve.figure
    assert "to epoch 2</text>" in curve.figure
    assert [f">{letter}</text>" in curve.figure for letter in "abcde"] == [True] * 4 + [False]
    for point in ("a BYOL, 71.9 %", "d MSBReg with 4 views, 80.4 %", "only directions"):
        assert point in curve.caption
    without = drawn(tmp_path, *({"epoch": e, "uniformity": -1.0} for e in (1, 2)))
    assert (without.caption, "over alignment" in without.figure) == ("", False)


def test_the_shares_of_all_terms_are_drawn_in_one_plot(tmp_path):
    keys = ("force/a_b", "force/c", "force_share/a_b", "force_share/c", "force_cosine/a_b,c")
    figure = drawn(tmp_path, *({"epoch": e, **dict.fromkeys(keys, 0.5)} for e in (1, 2))).figure
    assert figure.count("font-weight:600") == 2
    for text in ("share of the gradient", "cosine between gradients", "a b", "a b, c"):
        assert f">{text}</text>" in figure


@pytest.mark.parametrize("value", ['"high"', "NaN", "null", "1e300", "[1]", "true"])
def test_a_plane_omits_points_that_cannot_be_drawn(tmp_path, value):
    good = '{"epoch": 1, "alignment": 0.25, "uniformity": -1.0}'
    bad = f'{{"epoch": 2, "alignment": {value}, "uniformity": -1.0}}'
    assert "to epoch 1</text>" in drawn(tmp_path, good, bad).figure
