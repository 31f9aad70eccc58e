"""The published numbers in the terminal: selection, footnotes, tables, JSON and errors."""

import json

import pytest

from msbreg.run.errors import EXIT_USER_ERROR
from tools import published


def printed(capsys, *arguments):
    published.main(arguments)
    return capsys.readouterr().out


def test_without_options_the_tasks_are_listed_with_their_counts(capsys):
    lines = printed(capsys).splitlines()
    assert lines[0].startswith("515 published numbers")
    counts = {line[8:]: int(line[:8]) for line in lines[1:]}
    assert sum(counts.values()) == 515
    assert counts["ImageNet kNN"] == 9


def test_numbers_of_a_task_and_method_have_source_and_cautions(capsys):
    text = printed(capsys, "--task", "places205", "--method", "swav")
    first, *_, wide = text.splitlines()[:4]
    assert first == "Places205 linear, top1"
    assert "56.5  SwAV" in text
    assert "MSBReg paper, Table 5" in text
    assert "[a] Barlow Twins and VICReg have 56.7" in text
    assert "SSL slides, Barlow Twins Table 3" in wide


def test_numbers_that_are_no_scores_say_so(capsys):
    assert "Not comparable: the slide does not state the protocol." in printed(
        capsys, "--task", "CIFAR-10 (metric"
    )


def test_a_table_of_the_paper_is_printed(capsys):
    lines = printed(capsys, "--table", "4").splitlines()
    assert lines[0] == "Table 4 of MSBReg, arXiv 2207.03552: kNN classification of ImageNet"
    assert any(line.split()[:4] == ["MSBReg", "(K", "=", "4)"] for line in lines)


def test_json_has_the_same_numbers(capsys):
    numbers = json.loads(printed(capsys, "--task", "ImageNet kNN", "--json"))
    assert {(one["method"], one["printed"]) for one in numbers} >= {("PCL", "54.5"), ("LA", "49.4")}
    table = json.loads(printed(capsys, "--table", "8", "--json"))
    assert len(table["rows"]) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "imagenet knm"], "no published number has the task 'imagenet knm'"),
        (["--method", "SwAW"], "did you mean SwAV?"),
        (
            ["--task", "NYU", "--method", "MoCo"],
            "no method that contains 'MoCo' has a number for 'NYU'",
        ),
        (["--table", "9"], "Table 9 lists settings"),
        (["--table", "5", "--task", "x"], "omit --task and --method"),
    ],
)
def test_wrong_options_are_one_message(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        published.main(arguments)
    assert stopped.value.code == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
