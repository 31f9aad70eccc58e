"""Options, then KEY VALUE pairs: which word is which."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from msbreg.run.errors import UserError
from msbreg.run.yaml_options import parse, split


@dataclass(frozen=True)
class Asked:
    """Settings of a toy."""

    config: Path
    """A yaml."""
    number: int = 1
    """A number."""
    a_switch: bool = False
    """On or off."""
    kind: Literal["one", "two"] = "one"
    """A word."""
    overrides: tuple[str, ...] = ()
    """Pairs."""


@pytest.mark.parametrize(
    ("words", "options", "pairs"),
    [
        ("--config a.yaml", ["--config", "a.yaml"], []),
        ("--a-switch KEY.A 1", ["--a_switch=true"], ["KEY.A", "1"]),
        ("--a-switch false KEY.A 1", ["--a_switch=false"], ["KEY.A", "1"]),
        ("--a_switch=true --number=3 SEED 1", ["--a_switch=true", "--number=3"], ["SEED", "1"]),
        ("--number 3 KEY.A -1 KEY.B --x", ["--number", "3"], ["KEY.A", "-1", "KEY.B", "--x"]),
    ],
)
def test_words_are_told_apart(words, options, pairs):
    assert split(Asked, words.split()) == (options, pairs)


def test_the_card_has_what_was_set_on_top_of_it():
    words = ["--config", "cards/tiny.yaml", "--number", "4", "--a-switch", "SOLVER.MAX_ITER", "5"]
    asked, card = parse(Asked, words)
    pairs = ("SOLVER.MAX_ITER", "5")
    assert asked == Asked(Path("cards/tiny.yaml"), 4, True, overrides=pairs)
    assert card.name == "tiny"
    assert card.overrides == {"number": 4, "a_switch": True, "SOLVER.MAX_ITER": "5"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--number many", "--number is 'many'; expected a whole number"),
        ("--a-switch=maybe", "--a_switch is 'maybe'; expected true or false"),
        ("--kind three", "--kind is 'three'; expected one or two"),
        ("--numbr 3", "--numbr is no option; is --number meant?"),
        ("--xyz 3", "--xyz is no option\n"),
        ("--number", "argument --number: expected one argument"),
    ],
)
def test_options_that_cannot_be_used_are_one_message(words, message):
    with pytest.raises(UserError) as caught:
        parse(Asked, ["--config", "a.yaml", *words.split()])
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("\n--help shows all options.")


def test_a_yaml_is_needed():
    with pytest.raises(UserError, match="--config is missing"):
        parse(Asked, ["--number", "3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("KEY.A", "KEY.A has no VALUE"),
        ("KEY.A 1 --number 2", "--number stands behind KEY.A"),
        ("KEY.A=1 KEY.B", "stands where a KEY"),
        ("card.yaml KEY.A", "'card.yaml' stands where a KEY"),
    ],
)
def test_pairs_that_are_none_are_named(words, message):
    with pytest.raises(UserError, match=message):
        split(Asked, words.split())
