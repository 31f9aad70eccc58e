"""Bars by class stand beside those of the untrained twin by the same protocol."""

import re

import pytest

from tests.transfer.report.records import network, score, write_scores
from transfer.report.class_bars import class_bars
from transfer.report.collection import collect


def write(folder, name, provenance, classes, **content):
    write_scores(folder / name, provenance, score(50.0, per_class=classes), **content)


def bars_of(folder, **limits):
    return class_bars(collect([folder]).networks, **limits)


def test_classes_are_sorted_from_the_largest_gain_to_the_largest_loss(tmp_path):
    write(tmp_path, "a", network(), {"cat": 50.0, "dog": 70.0, "emu": 10.0})
    write(tmp_path, "b", network(random=True), {"cat": 40.0, "dog": 20.0, "emu": 30.0})
    (bars,), more = bars_of(tmp_path)
    assert [(row.name, row.difference) for row in bars.rows] == [
        ("dog", 50.0),
        ("cat", 10.0),
        ("emu", -20.0),
    ]
    assert (more, bars.left_out) == (0, "")
    assert bars.title == (
        "top-1 by class, pets test: msbreg resnet18-tiny beside random resnet18-tiny"
    )
    assert re.findall(r">([+−][\d.]+)</text>", bars.figure) == ["+50.0", "+10.0", "−20.0"]


def test_values_are_means_over_the_seeds(tmp_path):
    for seed, value in enumerate((50.0, 60.0)):
        write(tmp_path, f"a{seed}", network(seed), {"cat": value})
    write(tmp_path, "b", network(random=True), {"cat": 20.0})
    ((bars,), _) = bars_of(tmp_path)
    assert (bars.rows[0].trained, bars.rows[0].untrained) == pytest.approx((55.0, 20.0))


def test_of_many_classes_the_largest_gains_and_losses_are_shown_and_the_rest_is_counted(tmp_path):
    names = [f"class {k}" for k in range(10)]
    write(tmp_path, "a", network(), {name: 10.0 * k for k, name in enumerate(names)})
    write(tmp_path, "b", network(random=True), dict.fromkeys(names, 5.0))
    ((bars,), _) = bars_of(tmp_path, most_classes=3)
    assert [row.name for row in bars.rows] == ["class 9", "class 8", "class 0"]
    assert bars.left_out == (
        "Not shown: 7 classes with differences between those of the two halves."
    )


def test_classes_without_a_score_of_both_are_counted(tmp_path):
    write(tmp_path, "a", network(), {"cat": 50.0, "dog": None, "emu": 1.0})
    write(tmp_path, "b", network(random=True), {"cat": 40.0, "dog": 20.0})
    ((bars,), _) = bars_of(tmp_path)
    assert [row.name for row in bars.rows] == ["cat"]
    assert bars.left_out == "Not shown: 2 classes without a score of both networks."


@pytest.mark.parametrize(
    "twin",
    [
        {"config": {"steps": 9}},
        {"transform": {"crop": 224}},
    ],
)
def test_another_protocol_is_not_drawn_beside(tmp_path, twin):
    write(tmp_path, "a", network(), {"cat": 50.0})
    write(tmp_path, "b", network(random=True), {"cat": 40.0}, **twin)
    assert bars_of(tmp_path) == ([], 0)


def test_another_architecture_is_no_twin(tmp_path):
    write(tmp_path, "a", network(), {"cat": 50.0})
    write(tmp_path, "b", network(random=True, arch="resnet50"), {"cat": 40.0})
    assert bars_of(tmp_path) == ([], 0)


def test_omitted_figures_are_counted(tmp_path):
    for k in range(3):
        provenance = network(name=f"n{k}", sha256=f"n{k}", details={"method": f"m{k}"})
        write(tmp_path, f"a{k}", provenance, {"cat": 50.0})
    write(tmp_path, "b", network(random=True), {"cat": 40.0})
    shown, more = bars_of(tmp_path, most=1)
    assert (len(shown), more) == (1, 2)


def test_names_of_classes_are_escaped(tmp_path):
    write(tmp_path, "a", network(), {"<script>": 50.0})
    write(tmp_path, "b", network(random=True), {"<script>": 40.0})
    ((bars,), _) = bars_of(tmp_path)
    assert "<script>" not in bars.figure
    assert "&lt;script&gt;" in bars.figure
