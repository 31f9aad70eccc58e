"""The lines at the end of a suite."""

from transfer.orchestration.execution import Progress
from transfer.orchestration.score_summary import print_failures


def test_tasks_that_failed_for_one_reason_share_a_line(capsys):
    progress = Progress(
        ends={"a/knn": "failed", "a/linear": "done", "b/knn": "failed", "b/svm": "not run"},
        reasons={"a/knn": "no images", "b/knn": "no images", "b/svm": "it needs b/linear"},
    )
    print_failures(progress)
    assert capsys.readouterr().out == (
        "failed: a/knn, b/knn: no images\nnot run: b/svm: it needs b/linear\n"
    )
