import pytest

from tools.tool_parser import ToolParser


def tool() -> ToolParser:
    parser = ToolParser("A tool.\n\nMore about it.")
    parser.add_argument("file")
    parser.add_argument("--trust-pickle", action="store_true")
    parser.add_argument("--to", choices=("one", "two"))
    return parser


@pytest.mark.parametrize("switch", ["--trust-pickle", "--trust_pickle"])
def test_a_tool_accepts_underscores_in_names_and_keeps_values(switch):
    options = tool().parse_args([switch, "a_file", "--to=one"])
    assert (options.trust_pickle, options.file, options.to) == (True, "a_file", "one")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("x --trust-pickel", "error: --trust-pickel is unknown; did you mean --trust-pickle?\n"),
        ("x --to three", "error: argument --to: invalid choice: 'three'"),
        ("", "error: the following arguments are required: file\n"),
    ],
)
def test_invalid_arguments_to_a_tool_give_one_message(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        tool().parse_args(words.split())
    assert end.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(message)
    assert "usage" not in stderr
