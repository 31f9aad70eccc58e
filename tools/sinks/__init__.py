"""Where tools/publish.py sends completed runs: one file per tracking service."""
