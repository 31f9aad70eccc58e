import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from msbreg.run.config import Card, differences, flat, main, parse, plain
from msbreg.run.errors import Interrupted, RunFailed, UserError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    """A rate."""


@dataclass(frozen=True)
class Settings:
    """Settings of a test."""

    method: Literal["a", "b"] = "a"
    """Which one."""
    output: Path = Path("out")
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    skip_some: bool = False

    def __post_init__(self):
        if self.limit is not None and self.limit < 0:
            raise UserError(f"limit is {self.limit}; expected 0 or more")


def test_no_arguments_are_the_defaults():
    assert parse(Settings, []) == (Settings(), Card("defaults", {}))


def test_the_command_line_overrides_by_dotted_name():
    config, card = parse(Settings, ["--inner.rate", "0.5", "--sizes", "[3]", "--method", "b"])
    assert config == Settings("b", sizes=(3,), inner=Inner(0.5))
    assert card == Card("defaults", {"method": "b", "sizes": [3], "inner.rate": 0.5})


@pytest.mark.parametrize(
    "words", ["--skip-some", "--skip_some", "--skip-some true", "--skip-some=true"]
)
def test_dashes_and_bare_switches_are_understood(words):
    config, _ = parse(Settings, [*words.split(), "--limit", "4"])
    assert config == Settings(limit=4, skip_some=True)


def test_a_card_names_itself_and_only_what_differs_from_it_is_an_override(tmp_path):
    file = tmp_path / "my_card.yaml"
    file.write_text("method: b\ninner: {rate: 0.3}\n")
    config, card = parse(Settings, ["--config", str(file), "--limit", "4"])
    assert config == Settings("b", limit=4, inner=Inner(0.3))
    assert card == Card("my_card", {"limit": 4})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense", "1"], "nonsense"),
        (["--inner.rat", "1"], "inner.rat"),  # no abbreviations
        (["--method", "c"], "method"),
        (["--config", "nowhere.yaml"], "does not exist"),
    ],
)
def test_an_argument_that_does_not_exist_ends_with_code_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        parse(Settings, arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_an_unknown_key_in_a_file_is_named(tmp_path, capsys):
    file = tmp_path / "card.yaml"
    file.write_text("methode: b\n")
    with pytest.raises(SystemExit) as end:
        parse(Settings, ["--config", str(file)])
    assert end.value.code == 2
    assert "methode" in capsys.readouterr().err


def run_with(error):
    def run(config, card):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("no such thing"), 2, "error: no such thing"),
        (RunFailed("it diverged"), 1, "error: it diverged"),
        (Interrupted("at step 3"), 75, "interrupted: at step 3"),
        (KeyboardInterrupt(), 75, "interrupted"),
    ],
)
def test_what_went_wrong_is_one_message_and_a_code(error, code, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(Settings, run_with(error), [])
    assert end.value.code == code
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_a_value_that_the_settings_refuse_is_a_user_error(capsys):
    with pytest.raises(SystemExit) as end:
        main(Settings, run_with(AssertionError("not reached")), ["--limit", "-1"])
    assert end.value.code == 2
    assert "limit is -1; expected 0 or more" in capsys.readouterr().err


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main(Settings, run_with(ZeroDivisionError()), [])


def test_settings_become_plain_and_flat():
    nested = plain(Settings())
    assert nested["output"] == "out"
    assert nested["sizes"] == [1, 2]
    assert flat(nested)["inner.rate"] == 0.1
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == {"a.c": 2}


def test_help_shows_what_each_setting_is():
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, root / "transfer" / "knn.py", "--help"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert "tau of the weights" in done.stdout
