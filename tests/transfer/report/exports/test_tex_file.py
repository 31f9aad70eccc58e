"""report.tex is a LaTeX document with rectangular tables."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.transfer.report.records import network, score, write_hits, write_scores
from transfer.report.collection import collect
from transfer.report.exports import tex_file
from transfer.report.exports.tex_file import as_tex
from transfer.report.render import describe

HOSTILE = r"[a] \end{tabular} 50% & $x_1$ #{} ~^ é λ 中 --"
NOT_ESCAPED = r"(?<!\\)"


def document_of(folder):
    return as_tex(describe(collect([folder]), [folder])).decode("ascii")


def write_all(folder, name=HOSTILE):
    """Scores with verdicts, a leaderboard, footnotes, differences and one of the paper's tables."""
    for label, share in ((name, 0.8), ("other", 0.4)):
        provenance = network(name=label, sha256=label, details={"method": label})
        write_hits(folder / f"{share}", provenance, np.arange(100) < 100 * share)
    write_hits(folder / "random", network(random=True), np.arange(100) < 20)
    provenance = network(5, name="third", sha256="third", details={"method": "third"})
    write_scores(folder / "third", provenance, score(60.0, n=100), config={"steps": 9})
    imagenet = {"name": "imagenet", "split": "val", "fingerprint": "im"}
    rules = "cosine similarity s, 20 neighbors, weights exp(s / 0.07)"
    published = score(65.0, name="20-NN top-1", data=imagenet, rules=rules, n=50_000)
    provenance = network(name="ours", sha256="ours", arch="resnet50", details={"method": "ours"})
    write_scores(folder / "imagenet", provenance, published)
    return folder


def tabulars(document):
    """The number of columns and the rows of cells of each tabular."""
    found = []
    for spec, body in re.findall(
        r"\\begin\{tabular\}\{([^\n]*)\}\n(.*?)\\end\{tabular\}", document, re.DOTALL
    ):
        columns = len(re.sub(r"p\{[^}]*\}", "l", spec))
        lines = [line for line in body.split("\n") if line.endswith(r"\\")]
        found.append((columns, [re.split(rf"{NOT_ESCAPED}&", line) for line in lines]))
    return found


def width(cell):
    """The number of columns of a cell."""
    spanned = re.search(r"\\multicolumn\{(\d+)\}", cell)
    return int(spanned[1]) if spanned else 1


def test_every_row_has_as_many_cells_as_its_table_has_columns(tmp_path):
    found = tabulars(document_of(write_all(tmp_path)))
    assert len(found) >= 5
    for columns, rows in found:
        assert {sum(map(width, row)) for row in rows} == {columns}


def test_braces_and_environments_are_balanced(tmp_path):
    document = document_of(write_all(tmp_path))
    opened = re.findall(r"\\begin\{(\w+)\}", document)
    closed = re.findall(r"\\end\{(\w+)\}", document)
    assert sorted(opened) == sorted(closed)
    braces = re.findall(rf"{NOT_ESCAPED}[{{}}]", document)
    assert braces.count("{") == braces.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex and booktabs")
def test_pdflatex_compiles_the_document(tmp_path):
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "report.tex"
    file.write_text(document_of(write_all(tmp_path / "runs")))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name]
    done = subprocess.run(
        command, cwd=file.parent, capture_output=True, text=True, errors="replace", timeout=120
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_scores_have_their_spread_rules_footnotes_and_floor(tmp_path):
    document = document_of(write_all(tmp_path, name="first"))
    assert r"Network & top-1 [\%]\textsuperscript{1}" in document
    assert r"\textsuperscript{1}\,some rules." in document
    assert r"third & 60.0\textsuperscript{a} \\" in document
    assert r"steps = 9 (the rest: 3). Not directly comparable" in document
    assert r"random resnet18-tiny & 20.0 \\" in document
    assert r"first minus random resnet18-tiny & $+60.0$ \\" in document


def test_verdicts_have_interval_p_value_word_and_floor(tmp_path):
    document = document_of(write_all(tmp_path, name="first"))
    row = next(
        line
        for line in document.split("\n")
        if line.startswith("first minus random") and "better" in line
    )
    cells = [cell.strip() for cell in row.split("&")]
    assert cells[2:3] + cells[4:] == ["$+60.0$", "$<0.001$", "better", "20.0", "100", r"1/1 \\"]
    low, high = map(float, re.fullmatch(r"\$\[(.*), (.*)\]\$", cells[3]).groups())
    assert low < 60 < high


def test_the_users_row_of_a_table_of_the_paper_is_bold(tmp_path):
    document = document_of(write_all(tmp_path))
    assert r"\caption{Table 4 of MSBReg, arXiv 2207.03552" in document
    assert re.search(r"\\textbf\{ours\}.* & \\textbf\{65\.0\}", document)
    assert "66.2" in document


def test_wide_and_long_tables_are_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(tex_file, "COLUMNS", 2)
    monkeypatch.setattr(tex_file, "ROWS", 2)
    for k in range(3):
        provenance = network(name=f"n{k}", sha256=f"n{k}", details={"method": f"n{k}"})
        write_scores(tmp_path / str(k), provenance, *(score(k, name=f"s{c}") for c in range(3)))
    document = document_of(tmp_path)
    scores = [part for part in document.split(r"\begin{table}") if "caption{Scores" in part]
    assert len(scores) == 4
    assert sum("continued" in part for part in scores) == 3
    for k in range(3):
        assert sum(f"\nn{k} &" in part for part in scores) == 2


def test_a_row_that_starts_with_a_bracket_is_no_option_of_the_line_before(tmp_path):
    document = document_of(write_all(tmp_path, name="[x]"))
    assert "\n{}[x]" in document
    assert "\n[x]" not in document


def test_without_scores_there_is_a_sentence(tmp_path):
    write_scores(tmp_path / "a", network(), score(1.0), status="failed")
    assert "No finished evaluation was found." in document_of(tmp_path)
