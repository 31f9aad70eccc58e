"""report.json has every score, verdict and rank as JSON that any parser reads."""

import json
import math

import numpy as np
import pytest

from tests.transfer.report.records import network, score, write_hits, write_record, write_scores
from transfer.report.collection import collect
from transfer.report.exports.json_file import SCHEMA, as_json, plain
from transfer.report.render import describe


def report_of(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = describe(collect([folder]), [folder])
    return json.loads(as_json(content), parse_constant=refuse)


def test_a_score_has_its_data_rules_spread_protocol_and_runs(tmp_path):
    for seed, value in enumerate((60.0, 62.0)):
        write_scores(
            tmp_path / str(seed),
            network(seed),
            score(value, stderr=2.0, per_class={"cat": value, "dog": None}),
            digest="abc",
            transform={"crop": 32},
            data={"train": {"fingerprint": "x"}},
        )
    report = report_of(tmp_path)
    (found,) = report["scores"]
    assert report["schema"] == SCHEMA
    assert found["value"] == 61.0
    assert found["spread"] == pytest.approx(2**0.5)
    assert (found["spread_kind"], found["spread_n"]) == ("seeds", 2)
    assert found["data"] == {"name": "pets", "split": "test", "fingerprint": "bb"}
    assert (found["score"], found["rules"], found["unit"]) == ("top-1", "some rules", "%")
    assert (found["protocol"], found["transform"]) == ("abc", {"crop": 32})
    assert found["fingerprints"] == {"train.fingerprint": "x"}
    assert found["classes"] == {"cat": 61.0, "dog": None}
    assert [run["value"] for run in found["runs"]] == [60.0, 62.0]
    assert [run["weights"] for run in found["runs"]] == ["msbreg-0", "msbreg-1"]
    assert [run["folder"] for run in found["runs"]] == [str(tmp_path / s) for s in "01"]


def test_networks_have_their_weights_with_seeds_and_sources(tmp_path):
    write_scores(tmp_path / "a", network(4), score(60.0))
    write_scores(tmp_path / "b", network(random=True), score(20.0))
    trained, untrained = report_of(tmp_path)["networks"]
    assert (trained["untrained"], untrained["untrained"]) == (False, True)
    (weights,) = trained["weights"]
    assert (weights["sha256"], weights["seed"]) == ("msbreg-4", "4")
    assert weights["source"] == "runs/pretrain-4/checkpoint.pth"


def test_verdicts_and_leaderboards_are_complete(tmp_path):
    for name, share in (("a", 0.8), ("b", 0.4)):
        provenance = network(name=name, sha256=name, details={"method": name})
        write_hits(tmp_path / name, provenance, np.arange(200) < 200 * share)
    write_hits(tmp_path / "random", network(random=True), np.arange(200) < 20)
    report = report_of(tmp_path)
    assert report["verdicts"]["corrected_together"] == 3
    first = report["verdicts"]["comparisons"][0]
    assert (first["ours"], first["theirs"], first["word"]) == (
        "a",
        "random resnet18-tiny",
        "better",
    )
    assert first["difference"] == pytest.approx(70.0)
    assert first["low"] < 70 < first["high"]
    assert (first["units"], first["seeds"], first["untrained_value"]) == (200, [1, 1], 10.0)
    (board,) = report["leaderboard"]["boards"]
    assert [(p["name"], p["best_rank"], p["worst_rank"]) for p in board["places"]] == [
        ("a", 1, 1),
        ("b", 2, 2),
        ("random resnet18-tiny", None, None),
    ]


def test_unfinished_runs_and_unreadable_records_are_listed(tmp_path):
    write_record(tmp_path / "late", kind="knn", config={}, status="failed", error="disk full")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{")
    report = report_of(tmp_path)
    assert report["unfinished"] == [
        {"folder": str(tmp_path / "late"), "kind": "knn", "status": "failed", "error": "disk full"}
    ]
    assert len(report["problems"]) == 1


def test_undefined_values_are_null(tmp_path):
    write_scores(tmp_path / "a", network(), score(None))
    assert report_of(tmp_path)["scores"][0]["value"] is None
    assert plain([math.nan, math.inf, -math.inf, 1.5]) == [None, None, None, 1.5]
