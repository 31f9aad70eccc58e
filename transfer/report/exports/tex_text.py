r"""Any text as LaTeX that plain pdflatex sets without packages for fonts or languages."""

import unicodedata

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "`": r"\textquoteleft{}",
    "'": r"\textquoteright{}",
}
_SYMBOLS = {
    "±": r"\ensuremath{\pm}",
    "−": r"\ensuremath{-}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "√": r"\ensuremath{\surd}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "≈": r"\ensuremath{\approx}",
    "≠": r"\ensuremath{\ne}",
    "∞": r"\ensuremath{\infty}",
    "→": r"\ensuremath{\to}",
    "←": r"\ensuremath{\leftarrow}",
    "↑": r"\ensuremath{\uparrow}",
    "↓": r"\ensuremath{\downarrow}",
    "°": r"\ensuremath{{}^\circ}",
    "²": r"\ensuremath{{}^2}",
    "³": r"\ensuremath{{}^3}",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi "
    "omega"
)
# Capitals that have a command; the others look like Latin letters.
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
_SYMBOLS |= {
    unicodedata.lookup(
        f"GREEK {case} LETTER {'LAMDA' if n.lower() == 'lambda' else n.upper()}"
    ): rf"\ensuremath{{\{n}}}"
    for case, names in (("SMALL", _GREEK), ("CAPITAL", _CAPITALS))
    for n in names.split()
}
_SYMBOLS["µ"] = _SYMBOLS["μ"]  # the micro sign
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u ",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r ",
    "\u030b": "H ",
    "\u030c": "v ",
    "\u0327": "c ",
}


def tex(value: object) -> str:
    r"""The text with everything escaped that LaTeX would interpret.

    White space becomes one space. Letters with accents, Greek letters and common symbols become commands; any
    other character that is not ASCII becomes its code point in brackets.

    >>> print(tex("box_AP 50 % ± é"))
    box\_AP 50 \% \ensuremath{\pm} \'{e}
    """
    escaped = "".join(_character(c) for c in " ".join(str(value).split()))
    return escaped.replace("--", "-{}-").replace("--", "-{}-")  # not a dash


def _character(character: str) -> str:
    known = _SPECIAL.get(character) or _SYMBOLS.get(character)
    if known:
        return known
    if " " <= character <= "~":
        return character
    base, *marks = list(unicodedata.normalize("NFD", character))
    if len(marks) == 1 and marks[0] in _ACCENTS and base.isascii() and base.isalpha():
        letter = {"i": r"\i", "j": r"\j"}.get(base, base)
        return f"\\{_ACCENTS[marks[0]].strip()}{{{letter}}}"
    return f"[U+{ord(character):04X}]"
