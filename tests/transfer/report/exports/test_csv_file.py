"""scores.csv has a line for each network and score, unrounded, with everything needed to find its runs."""

import csv
import io

import numpy as np
import pytest

from tests.transfer.report.records import network, score, write_scores
from transfer.report.collection import collect
from transfer.report.exports.csv_file import COLUMNS, scores_csv


def lines_of(folder):
    return list(csv.DictReader(io.StringIO(scores_csv(collect([folder]).networks))))


def test_a_line_has_the_mean_its_spread_and_where_it_comes_from(tmp_path):
    values = [60.0, 61.0, 63.5]
    for seed, value in enumerate(values):
        write_scores(tmp_path / str(seed), network(seed), score(value), digest="abc")
    (line,) = lines_of(tmp_path)
    assert tuple(line) == COLUMNS
    assert float(line.pop("value")) == pytest.approx(np.mean(values), rel=1e-12)
    assert float(line.pop("spread")) == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert line == {
        "network": "msbreg resnet18-tiny",
        "architecture": "resnet18-tiny",
        "untrained": "false",
        "data": "pets",
        "split": "test",
        "data_fingerprint": "bb",
        "images": "500",
        "score": "top-1",
        "rules": "some rules",
        "unit": "%",
        "higher_is_better": "true",
        "spread_kind": "seeds",
        "spread_n": "3",
        "protocol": "abc",
        "seeds": "0;1;2",
        "weights_sha256": "msbreg-0;msbreg-1;msbreg-2",
        "runs": ";".join(str(tmp_path / str(seed)) for seed in range(3)),
    }


def test_protocols_have_lines_of_their_own(tmp_path):
    write_scores(tmp_path / "a", network(0), score(60.0))
    write_scores(tmp_path / "b", network(1), score(70.0), config={"steps": 9})
    lines = lines_of(tmp_path)
    assert [float(line["value"]) for line in lines] == [60.0, 70.0]
    assert lines[0]["protocol"] != lines[1]["protocol"]


def test_undefined_values_and_unknown_spreads_are_empty(tmp_path):
    write_scores(tmp_path / "a", network(), score(None))
    (line,) = lines_of(tmp_path)
    assert [line[name] for name in ("value", "spread", "spread_kind", "spread_n")] == [""] * 4


def test_the_standard_error_over_the_test_images_is_labeled_as_such(tmp_path):
    write_scores(tmp_path / "a", network(), score(60.0, stderr=2.0))
    (line,) = lines_of(tmp_path)
    assert (line["spread"], line["spread_kind"]) == ("2.0", "test images")


def test_quotes_line_breaks_and_separators_survive(tmp_path):
    name = 'a "b",\nc;d ünï'
    write_scores(tmp_path / "a", network(name=name), score(60.0))
    assert lines_of(tmp_path)[0]["network"] == name


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum(a1)"])
def test_a_text_that_a_spreadsheet_would_evaluate_gets_an_apostrophe(tmp_path, name):
    write_scores(tmp_path / "a", network(name=name), score(-1.0))
    (line,) = lines_of(tmp_path)
    assert (line["network"], line["value"]) == (f"'{name}", "-1.0")
