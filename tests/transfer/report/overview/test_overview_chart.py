"""The overview chart compares the main scores with untrained twins and published methods."""

import re

from tests.transfer.report.records import network, write_knn
from transfer.report.collection import collect
from transfer.report.overview.main_scores import summarize
from transfer.report.overview.overview_chart import Baseline, overview
from transfer.report.score_tables import score_tables

PUBLISHED = [
    Baseline(name, value, "a paper", "ResNet-50")
    for name, value in (
        ("A", 40.0),
        ("B", 55.0),
        ("C", 58.0),
        ("D", 63.0),
        ("E", 66.0),
        ("F", 71.0),
    )
]


def chart_of(folder, baselines=()):
    networks = collect([folder]).networks
    summary = summarize(networks, score_tables(networks)[0])
    return overview(summary, {summary.columns[0].column: baselines})


def write_pair(folder):
    write_knn(folder / "a", 60.0, network())
    write_knn(folder / "b", 30.0, network(random=True))


def test_networks_have_numbers_and_untrained_twins_a_letter(tmp_path):
    write_pair(tmp_path)
    chart = chart_of(tmp_path)
    assert chart.marks == {"1": "msbreg resnet18-tiny", "u": "untrained"}
    assert chart.backbones == ""
    assert chart.numbers[0][1] == "msbreg resnet18-tiny 60.0; random resnet18-tiny 30.0"


def test_the_neighbors_of_the_best_network_and_the_best_method_are_named(tmp_path):
    write_pair(tmp_path)
    chart = chart_of(tmp_path, PUBLISHED)
    assert chart.backbones == "ResNet-50"
    assert re.findall(r">([A-F] \d+\.\d)</text>", chart.figure) == ["C 58.0", "D 63.0", "F 71.0"]
    assert all(f"<title>{b.label}: {b.value:.1f}</title>" in chart.figure for b in PUBLISHED)
    assert "F (published) 71.0; D (published) 63.0; msbreg" in chart.numbers[0][1]


def test_a_network_above_all_published_methods_has_one_neighbor(tmp_path):
    write_pair(tmp_path)
    figure = chart_of(tmp_path, PUBLISHED[:3]).figure
    assert re.findall(r">([A-F] \d+\.\d)</text>", figure) == ["C 58.0"]


def test_a_single_score_has_no_chart(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    assert chart_of(tmp_path) is None
    assert chart_of(tmp_path, PUBLISHED) is not None
