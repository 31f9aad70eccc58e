"""Options, then KEY VALUE pairs: which word is which."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from msbreg.errors import UserError
from transfer.engines.command_line import parse, split


@dataclass(frozen=True)
class Asked:
    """Settings of a toy."""

    config: Path
    """A yaml."""
    number: int = 1
    """A number."""
    a_switch: bool = False
    """On or off."""
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
    assert asked == Asked(Path("cards/tiny.yaml"), 4, True, ("SOLVER.MAX_ITER", "5"))
    assert card.name == "tiny"
    assert card.overrides == {"number": 4, "a_switch": True, "SOLVER.MAX_ITER": "5"}


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
