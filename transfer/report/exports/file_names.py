"""The files of a report: format -> file name. Imports nothing, so that options are read quickly."""

FILES = {
    "html": "report.html",
    "md": "report.md",
    "csv": "scores.csv",
    "json": "report.json",
    "tex": "report.tex",
}
