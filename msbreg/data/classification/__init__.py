"""Readers of published classification data sets, one file per layout."""
