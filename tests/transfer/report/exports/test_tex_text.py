"""Escaped text is set by plain pdflatex as it was written."""

import pytest

from transfer.report.exports.tex_text import tex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box_AP & 50 %", r"box\_AP \& 50 \%"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$a^2$ #1 ~", r"\$a\textasciicircum{}2\$ \#1 \textasciitilde{}"),
        ("a < b > c | d", r"a \textless{} b \textgreater{} c \textbar{} d"),
        ("61.5 ± 1.8", r"61.5 \ensuremath{\pm} 1.8"),
        ("λ, Δ, µ", r"\ensuremath{\lambda}, \ensuremath{\Delta}, \ensuremath{\mu}"),
        ("é ü ñ ç Å", r"\'{e} \"{u} \~{n} \c{c} \r{A}"),
        ("ï", r"\"{\i}"),
        ("--x ---", r"-{}-x -{}-{}-"),
        ("a\n b\t c", "a b c"),
        ("中", "[U+4E2D]"),
        ("\x00", "[U+0000]"),
        ("resnet18-tiny [weights 1]", "resnet18-tiny [weights 1]"),
    ],
)
def test_text_is_escaped(text, expected):
    assert tex(text) == expected


def test_every_character_becomes_ascii():
    text = "".join(map(chr, [*range(0x20, 0x3000), 0xD800, 0x1F600]))
    assert tex(text).isascii()
