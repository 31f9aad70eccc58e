"""The lines at the end of a suite."""

from transfer.orchestration.data_assignment import Missing
from transfer.orchestration.execution import Progress
from transfer.orchestration.protocols import PROTOCOLS
from transfer.orchestration.score_summary import print_failures, print_not_run
from transfer.orchestration.task_graph import Plan


def test_tasks_that_failed_for_one_reason_share_a_line(capsys):
    progress = Progress(
        ends={"a/knn": "failed", "a/linear": "done", "b/knn": "failed", "b/svm": "not run"},
        reasons={"a/knn": "no images", "b/knn": "no images", "b/svm": "it needs b/linear"},
    )
    print_failures(progress)
    assert capsys.readouterr().out == (
        "failed: a/knn, b/knn: no images\nnot run: b/svm: it needs b/linear\n"
    )


def test_data_in_another_layout_are_not_said_to_be_absent(tmp_path, capsys):
    there = tmp_path / "cifar10"
    there.mkdir()
    places = [there, tmp_path / "pets"]
    missing = tuple(Missing(PROTOCOLS[0], "the archive", str(place)) for place in places)
    print_not_run(Plan((), (), missing, ()), full=True)
    name = PROTOCOLS[0].name
    assert capsys.readouterr().out == (
        f"no data for {name}: {there} is incomplete or has another layout; expected: the archive\n"
        f"no data for {name}: fetch to {places[1]}: the archive\n"
    )
