"""A run of two processes of which only the first can check files; started by test_run.py."""

import sys
from pathlib import Path

from msbreg.run import distributed
from msbreg.run.errors import RunFailed
from pretrain import run as script
from tests.pretrain.test_run import small


def fail(*arguments, **options):
    raise RunFailed("this process must not check files")


if __name__ == "__main__":
    data, output = map(Path, sys.argv[1:])
    check = script.unreadable
    script.unreadable = lambda *a, **o: (check if distributed.is_main() else fail)(*a, **o)
    script.run(small(data, output, epochs=1, skip_unreadable=True, head_norm="ln"))
