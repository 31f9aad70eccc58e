"""Command lines and cards become settings, or one helpful message."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from msbreg.run.config import Card
from msbreg.run.errors import Interrupted, RunFailed, UserError, exit_codes
from msbreg.run.option_types import NO_OPTION, describe_type
from msbreg.run.options import help_text, main, parse, read_options


@dataclass(frozen=True)
class Inner:
    base_rate: float = 0.1
    """A rate."""


@dataclass(frozen=True)
class Crop:
    resize: int = 8
    crop: int = 8

    def __post_init__(self):
        if self.crop > self.resize:
            raise UserError(f"crop is {self.crop}; expected at most {self.resize}")


@dataclass(frozen=True)
class Settings:
    """Settings of a test."""

    script: ClassVar[str] = "toys/toy.py"

    method: Literal["a", "b"] = "a"
    """Which ``one``."""
    kind: Literal["linear", "attentive"] = "linear"
    norms: tuple[Literal["none", "affine"], ...] = ("none",)
    output: Path = Path("out")
    sizes: tuple[int, ...] = (1, 2)
    """Several
    sizes."""
    names: tuple[str, ...] = ()
    area: tuple[float, float] | None = (0.5, 1.0)
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    crop: Crop | None = None
    skip_some: bool = False

    def __post_init__(self):
        if self.limit is not None and self.limit < 0:
            raise UserError(f"limit is {self.limit}; expected 0 or more")


@dataclass(frozen=True)
class WithFirstWord(Settings):
    first_word: ClassVar[str] = "method"


def test_the_first_word_may_be_a_value():
    config, _ = parse(WithFirstWord, ["b", "--limit", "3"])
    assert (config.method, config.limit) == ("b", 3)
    assert parse(WithFirstWord, ["--limit", "3"])[0].method == "a"
    assert help_text(WithFirstWord, "").count("toys/toy.py METHOD [OPTIONS]") == 1
    with pytest.raises(UserError, match="method is 'c'"):
        parse(WithFirstWord, ["c"])


@dataclass(frozen=True)
class OfYaml:
    """Settings on top of a yaml."""

    script: ClassVar[str] = "toys/detect.py"

    config: Path
    """A yaml."""
    number: int = 1
    a_switch: bool = False
    kind: Literal["one", "two"] = "one"
    overrides: tuple[str, ...] = field(default=(), metadata=NO_OPTION)


def with_pairs(words: str):
    return parse(OfYaml, words.split(), pairs="overrides")


# ---- Options


def test_without_arguments_the_defaults_are_used():
    assert parse(Settings, []) == (Settings(), Card("defaults", {}))


def test_the_command_line_overrides_by_dotted_name():
    words = ["--inner.base-rate", "0.5", "--sizes", "[3]", "--method", "b"]
    config, card = parse(Settings, words)
    assert config == Settings("b", sizes=(3,), inner=Inner(0.5))
    assert card == Card("defaults", {"method": "b", "sizes": [3], "inner.base_rate": 0.5})


@pytest.mark.parametrize(
    "words", ["--skip-some", "--skip_some", "--skip-some true", "--skip_some=true"]
)
@pytest.mark.parametrize("rate", ["--inner.base-rate=2", "--inner.base_rate 2"])
def test_hyphens_equal_underscores_and_a_switch_needs_no_value(words, rate):
    config, _ = parse(Settings, [*words.split(), "--limit", "4", *rate.split()])
    assert config == Settings(limit=4, skip_some=True, inner=Inner(2.0))


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ("--sizes 5", (5,)),
        ("--sizes=5", (5,)),
        ("--sizes 5 20 --limit 3", (5, 20)),
        ("--sizes 5,20", (5, 20)),
        ("--sizes=5,20", (5, 20)),
        ("--sizes [5,20]", (5, 20)),
        ("--sizes -1 2", (-1, 2)),
    ],
)
def test_a_list_may_be_one_argument_or_several(words, sizes):
    assert parse(Settings, words.split())[0].sizes == sizes


def test_elements_of_a_string_list_remain_strings():
    assert parse(Settings, ["--names", "5", "null,b c"])[0].names == ("5", "null", "b c")
    assert parse(Settings, ["--names", "[one, two]"])[0].names == ("one", "two")


def test_an_optional_group_accepts_a_mapping_or_single_fields():
    assert parse(Settings, ["--crop.resize", "9"])[0].crop == Crop(9, 8)
    assert parse(Settings, ['--crop={"resize": 9}', "--crop.crop=3"])[0].crop == Crop(9, 3)
    assert parse(Settings, ["--crop", "null", "--area", "null"])[0] == Settings(area=None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--methd b", "--methd is unknown; did you mean --method?"),
        ("--inner.base-rat 1", "--inner.base-rat is unknown; did you mean --inner.base-rate?"),
        ("--xyzzy 1", "--xyzzy is unknown."),
        ("--skip-som", "--skip-som is unknown; did you mean --skip-some?"),
        ("--method c", "--method is 'c'; expected a or b."),
        ("--kind lineer", "--kind is 'lineer'; expected linear or attentive; did you mean linear?"),
        (
            "--norms bn",
            "--norms is 'bn'; expected one or more of none, affine, separated by spaces or commas.",
        ),
        (
            "--norms none,afine",
            "--norms is 'none, afine'; expected one or more of none, affine, separated by spaces or "
            "commas; did you mean affine?",
        ),
        ('--inner {"base_rat":1}', "--inner.base-rat is unknown; did you mean --inner.base-rate?"),
        ('--inner {"base_rate":"x"}', "--inner.base-rate is 'x'; expected a number."),
        ("--inner.base-rate x", "--inner.base-rate is 'x'; expected a number."),
        ("--limit x", "--limit is 'x'; expected an integer, or null."),
        (
            "--sizes 5 x",
            "--sizes is '5, x'; expected integers, separated by spaces or commas.",
        ),
        (
            "--area 1",
            "--area is '1'; expected 2 numbers, separated by spaces or commas, such as 0.5 1, or null.",
        ),
        ("--skip-some=maybe", "--skip-some is 'maybe'; expected true or false."),
        ("--limit", "--limit has no value; expected an integer, or null."),
        ("--limit --skip-some", "--limit has no value; expected an integer, or null."),
        ("word", "'word' does not belong to an option."),
    ],
)
def test_invalid_options_give_one_message(words, message):
    with pytest.raises(UserError) as caught:
        parse(Settings, words.split())
    assert str(caught.value) == f"{message}\nRun with --help to list all options."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--limit=-1", "limit is -1; expected 0 or more"),
        ("--crop.crop 9", "crop is 9; expected at"),
    ],
)
def test_messages_of_the_config_class_are_passed_on(words, message):
    with pytest.raises(UserError) as caught:
        parse(Settings, words.split())
    assert str(caught.value).startswith(message)


# ---- Cards


def write_card(folder: Path, content: str) -> Path:
    file = folder / "my_card.yaml"
    file.write_text(content)
    return file


def test_only_settings_that_differ_from_the_card_are_overrides(tmp_path):
    file = write_card(tmp_path, "method: b\ninner: {base_rate: 0.3}\ncrop: {resize: 9, crop: 2}\n")
    config, card = parse(Settings, ["--config", str(file), "--limit", "4", "--crop.crop", "3"])
    assert config == Settings("b", limit=4, inner=Inner(0.3), crop=Crop(9, 3))
    assert card == Card("my_card", {"limit": 4, "crop.crop": 3})


def test_card_values_are_parsed_like_command_line_values(tmp_path):
    content = (
        "inner: {base-rate: 1e-5}\nsizes: 5\nnames: [a, 'null']\narea: null\nskip_some: true\n"
    )
    config, _ = parse(Settings, ["--config", str(write_card(tmp_path, content))])
    assert config == Settings(
        inner=Inner(1e-5), sizes=(5,), names=("a", "null"), area=None, skip_some=True
    )


def test_a_later_card_overrides_an_earlier_one(tmp_path):
    first = write_card(tmp_path, "limit: 3\nmethod: b\n")
    second = tmp_path / "second.yaml"
    second.write_text("limit: 4\n")
    config, card = parse(Settings, [f"--config={first}", f"--config={second}"])
    assert config == Settings("b", limit=4)
    assert card == Card("my_card + second", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("methd: b\n", "methd is unknown; did you mean method?"),
        ("inner: {base_rat: 1}\n", "inner.base_rat is unknown; did you mean inner.base_rate?"),
        ("method: c\n", "method is 'c'; expected a or b."),
        ("crop: {crop: 99}\n", "crop is 99; expected at most 8"),
        ("limit: -3\n", "limit is -3; expected 0 or more"),
    ],
)
def test_errors_in_a_card_name_the_file_and_the_key(tmp_path, content, message):
    file = write_card(tmp_path, content)
    with pytest.raises(UserError) as caught:
        parse(Settings, ["--config", str(file)])
    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "is not a mapping"),
        ("a: [", "cannot be read"),
        ("a: \x00", "cannot be read"),
        ("limit: " + "9" * 5000, "cannot be read: .*4300 digits"),
        ("limit: &a [*a]", "cannot be read: line 1: contains itself through an alias"),
        ("limit: " + "[" * 100 + "]" * 100, "cannot be read: line 1: nested deeper than 20 levels"),
        (
            "".join(f"a{n}: &a{n} [" + f"*a{n - 1}, " * 9 * (n > 0) + "]\n" for n in range(9)),
            "cannot be read: line 6: more than 20000 values after expanding aliases",
        ),
    ],
)
def test_an_invalid_card_file_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=f"my_card.yaml {message}"):
        parse(Settings, ["--config", str(write_card(tmp_path, content))])


def test_a_missing_card_is_named():
    with pytest.raises(UserError, match=r"card nowhere\.yaml does not exist"):
        parse(Settings, ["--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("content", "script"),
    [
        (
            "# Command: python transfer/svm.py --config my_card.yaml\ncosts: [1]\n",
            "transfer/svm.py",
        ),
        ("# Command: torchrun --nproc_per_node 8 a/b.py --config c/d.yaml\nx: 1\n", "a/b.py"),
        ("MODEL: {MASK_ON: true}\n", "transfer/detection.py"),
    ],
)
def test_a_card_of_another_script_is_recognized(tmp_path, content, script):
    file = write_card(tmp_path, content)
    with pytest.raises(UserError) as caught:
        parse(Settings, ["--config", str(file)])
    assert str(caught.value).startswith(
        f"{file} is a card for {script}, but this is toys/toy.py.\n"
    )


def test_a_card_of_another_script_is_accepted_if_all_keys_are_known(tmp_path):
    file = write_card(tmp_path, "# Command: python transfer/svm.py\nlimit: 3\n")
    assert parse(Settings, ["--config", str(file)])[0] == Settings(limit=3)


# ---- KEY VALUE pairs


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("--config a.yaml", OfYaml(Path("a.yaml"))),
        ("--a-switch --config a KEY.A 1", OfYaml(Path("a"), 1, True, overrides=("KEY.A", "1"))),
        ("--a_switch false --config a K 1", OfYaml(Path("a"), overrides=("K", "1"))),
        (
            "--number=3 --config a KEY.A -1 KEY.B --x",
            OfYaml(Path("a"), 3, overrides=("KEY.A", "-1", "KEY.B", "--x")),
        ),
    ],
)
def test_options_and_pairs_are_distinguished(words, config):
    assert with_pairs(words)[0] == config


def test_options_and_pairs_are_overrides_of_the_yaml():
    config, card = with_pairs("--config cards/tiny.yaml --number 4 SOLVER.MAX_ITER 5")
    assert config == OfYaml(Path("cards/tiny.yaml"), 4, overrides=("SOLVER.MAX_ITER", "5"))
    assert card == Card("tiny", {"number": 4, "SOLVER.MAX_ITER": "5"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--number 3", "--config is missing"),
        ("--config a --overrides x", "--overrides is unknown"),
        ("--config a KEY.A", "KEY.A has no VALUE"),
        ("--config a KEY.A 1 --number 2", "--number must come before the KEY VALUE pairs"),
        ("--config a KEY.A=1 KEY.B", "'KEY.A=1' is not a KEY"),
        ("--config a card.yaml KEY.A", "'card.yaml' is not a KEY"),
    ],
)
def test_invalid_pairs_are_named(words, message):
    with pytest.raises(UserError, match=message):
        with_pairs(words)


def test_with_pairs_a_card_of_another_script_is_recognized(tmp_path):
    file = write_card(tmp_path, "# Command: python transfer/knn.py --config my_card.yaml\nk: 5\n")
    message = r"is a card for transfer/knn\.py, but this is toys/detect\.py"
    with pytest.raises(UserError, match=message):
        with_pairs(f"--config {file}")


# ---- Help


def test_help_lists_every_option_with_its_default_and_the_exit_codes():
    text = help_text(Settings, "A toy.\n\nIt plays.")
    assert text.startswith("usage: python toys/toy.py [OPTIONS]\n\nA toy.\n\nIt plays.\n")
    assert "  --method {a,b}\n      Which one  [a]\n" in text
    assert "  --sizes N ...\n      Several sizes  [1 2]\n" in text
    assert "  --inner.base-rate X\n      A rate  [0.1]\n" in text
    assert "  --crop {resize: ..., crop: ...}\n" in text
    assert "Exit codes: 0 success; 1 the run failed" in text
    assert "_" not in text.replace("skip_some", "")
    for internal in ("class", "jsonargparse", "print_config", "``", "None"):
        assert internal not in text


def test_help_with_pairs_shows_them_in_the_usage():
    text = help_text(OfYaml, "A toy.", pairs="overrides")
    assert "usage: python toys/detect.py [OPTIONS] [KEY VALUE ...]\n" in text
    assert "--overrides" not in text


def test_help_exits_with_code_0(capsys):
    with pytest.raises(SystemExit) as end:
        parse(Settings, ["--methd", "--help"])
    assert end.value.code == 0
    assert "--inner.base-rate" in capsys.readouterr().out


def test_a_group_is_described_by_its_fields():
    assert describe_type(Crop | None) == "a mapping of resize, crop, or null"


# ---- Exit codes


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("no such thing"), 2, "error: no such thing"),
        (RunFailed("it diverged"), 1, "error: it diverged"),
        (Interrupted("at step 3"), 75, "interrupted: at step 3"),
        (KeyboardInterrupt(), 75, "interrupted"),
    ],
)
def test_known_errors_give_one_message_and_an_exit_code(error, code, words, capsys):
    def run(config, card):
        raise error

    with pytest.raises(SystemExit) as end:
        main(run, Settings(), Card())
    assert end.value.code == code
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_internal_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), exit_codes():
        raise ZeroDivisionError


@dataclass(frozen=True)
class Checked:
    """Settings with a path."""

    checkpoint: str = "nowhere.pth"

    def check_inputs(self):
        raise UserError(f"{self.checkpoint} does not exist")


def test_paths_are_checked_when_a_script_starts(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["toy.py", "--checkpoint", "x.pth"])
    with pytest.raises(SystemExit) as end:
        read_options(Checked)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: x.pth does not exist\n"


def test_a_group_may_be_given_as_json():
    config, _ = parse(Settings, [f"--crop={json.dumps({'resize': 5, 'crop': 4})}"])
    assert config.crop == Crop(5, 4)
