"""The verdict of the gate is at the top of the report, and it is no main score."""

import pytest

from tests.transfer.report.records import network, score, write_knn, write_record
from transfer.report.collection import collect
from transfer.report.overview.gates import gates
from transfer.report.render import describe, write_report


def write_gate(folder, verdict, *reasons, **content):
    results = {"verdict": verdict, "reasons": list(reasons)}
    record = {"schema": 2, "kind": "gate", "config": {}, "network": network(), "results": results}
    return write_record(folder, **record | {"scores": [score(55.0, name="gate top-1")]} | content)


@pytest.mark.parametrize("scores", [[score(55.0, name="gate top-1")], []], ids=["scores", "none"])
def test_the_gate_of_a_trained_network_is_found_with_and_without_scores(tmp_path, scores):
    write_gate(tmp_path / "a", "learned", "20 points above its twins", scores=scores)
    write_gate(tmp_path / "b", "not learned", "a twin", network=network(random=True))
    (gate,) = gates(collect([tmp_path]))
    assert (gate.network, gate.verdict) == ("msbreg resnet18-tiny", "learned")
    assert gate.reasons == ("20 points above its twins",)
    assert gate.warning == ""


@pytest.mark.parametrize(
    ("verdict", "words"), [("not learned", "has not learned"), ("unclear", "is unclear")]
)
def test_a_network_that_has_not_learned_is_the_worst_warning(tmp_path, verdict, words):
    write_gate(tmp_path / "runs" / "gate", verdict, "no better than its twins")
    write_knn(tmp_path / "runs" / "knn", 12.0, network(), warnings=["another warning"])
    page = write_report([tmp_path / "runs"], tmp_path / "report")
    for content in (page.read_text(), page.with_name("report.md").read_text()):
        assert f"First look (gate): msbreg resnet18-tiny {verdict}." in content
        first = content.index("Worst of 3 warnings")
        assert (
            f"First look (gate): msbreg resnet18-tiny {words}: no better"
            in content[first : first + 200]
        )


def test_the_gate_has_no_board_and_no_verdicts(tmp_path):
    for name in ("one", "two"):
        provenance = network(name=name, sha256=name)
        write_gate(tmp_path / name / "gate", "learned", network=provenance)
        write_knn(tmp_path / name / "knn", 50.0, provenance)
    content = describe(collect([tmp_path]), [tmp_path])
    assert [board.column.name for board in content["leaderboard"].boards] == ["20-NN top-1"]
    assert content["verdicts"].left_out.startswith("Not compared: 1 comparisons of runs that did")


def test_the_gate_is_no_main_score(tmp_path):
    write_gate(tmp_path / "runs" / "gate", "learned", "far above")
    write_knn(tmp_path / "runs" / "knn", 60.0, network())
    page = write_report([tmp_path / "runs"], tmp_path / "report").read_text()
    summary = page[page.index('<h2 id="summary">') : page.index('<h2 id="scores">')]
    assert "20-NN top-1" in summary
    assert "gate top-1" not in summary


@pytest.mark.parametrize("results", [{}, {"verdict": 3}, {"verdict": "learned", "reasons": "x"}])
def test_a_gate_without_its_results_does_not_stop_the_report(tmp_path, results):
    write_gate(tmp_path / "runs", "learned", results=results)
    assert "Transfer report" in write_report([tmp_path / "runs"], tmp_path / "report").read_text()
