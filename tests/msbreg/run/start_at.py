"""A run that starts at a given time and lasts a moment: python -m tests.msbreg.run.start_at FOLDER TIME."""

import sys
import time
from pathlib import Path

from msbreg.run.config import Card
from msbreg.run.errors import exit_codes
from msbreg.run.job import start_job
from tests.msbreg.run.test_job import Settings

if __name__ == "__main__":
    while time.time() < float(sys.argv[2]):
        pass
    with exit_codes(), start_job(Settings(Path(sys.argv[1])), Card(), kind="knn"):
        time.sleep(0.3)
