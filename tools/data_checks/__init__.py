"""The checks of tools/verify_data.py and the passports of checked data sets."""
