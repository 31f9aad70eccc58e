"""The commands and links of README, CONTRIBUTING, docs/ and the cards are real."""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msbreg.run.options import parse
from transfer.detectors.config.yaml_file import read_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
API = ROOT / "docs" / "api.md"
CARDS = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPT = re.compile(r"(?:python|torchrun)\b[^`\n]*? ((?:pretrain|transfer|tools)/\w+\.py)([^`\n]*)")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Script and words of each command; a trailing backslash continues a line."""
    joined = re.sub(r"\\\n\s*#?\s*", " ", text)
    for line in joined.replace("&&", "\n").splitlines():
        for script, rest in SCRIPT.findall(line):
            words = shlex.split(rest.split(" (")[0], comments=True)
            yield script, [word for word in words if word != "..."]


def check(script: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """That the script knows these options; the values may be placeholders."""
    assert (ROOT / script).is_file(), script
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if script.startswith("tools/"):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(sys, "argv", [script, "--help"])
            module.main()
        known = capsys.readouterr().out
        assert not [w for w in words if w.startswith("--") and not re.search(rf"{w}\b", known)]
        return
    if script != "transfer/detection.py":
        parse(module.Config, words)
        return
    config, _ = parse(module.Config, words, pairs="overrides")
    card = config.config if config.config.is_file() else Path("configs/voc_c4.yaml")
    read_config(card, config.overrides)


@pytest.mark.parametrize("page", names([*PAGES, *CARDS]))
def test_every_command_names_a_script_its_options_and_its_card(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for script, words in commands((ROOT / page).read_text()):
        check(script, words, capsys)


def test_commands_are_found_in_blocks_in_tables_and_in_cards():
    text = (
        "| x | `python a/b.py` `python tools/report.py RUNS` |\n"
        "# Command: torchrun -n 2 \\\n#    pretrain/run.py --k 3\n"
    )
    assert list(commands(text)) == [
        ("tools/report.py", ["RUNS"]),
        ("pretrain/run.py", ["--k", "3"]),
    ]


@pytest.mark.parametrize("page", names(PAGES))
def test_every_link_leads_to_a_file_and_a_heading(page):
    path = ROOT / page
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", names(PAGES))
def test_every_path_in_the_text_exists(page):
    folders = "msbreg|pretrain|transfer|tools|tests|configs|docs"
    found = re.findall(rf"`((?:{folders})/[\w./]*)`", (ROOT / page).read_text())
    placeholder = re.compile(r"NAME|METRIC")  # of files to be written
    assert [n for n in found if not (ROOT / n).exists() and not placeholder.search(n)] == []


def test_every_function_of_the_api_page_exists():
    rows = re.findall(r"^\| `([\w.]+)` \| ((?:`\w+`(?:, )?)+) \|$", API.read_text(), re.MULTILINE)
    listed = [(module, name) for module, names in rows for name in re.findall(r"\w+", names)]
    assert len(listed) > 10
    assert [n for m, n in listed if not hasattr(importlib.import_module(m), n)] == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
