"""Run scripts as a user would, each in a fork of this process; started by test_startup.py.

    python -m tests.msbreg.run.starting HEAVY ... < CASES

CASES is a JSON list of [script, words]; prints a list of [exit code, standard output, standard error]. What
scripts import to read their options is imported here once.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
from typing import IO

SHARED = ("msbreg.run.options", "msbreg.data.sources", "transfer.detectors.config.supported")


def start(script: str, words: str) -> tuple[int, str, str]:
    """Run a script, which ends by printing which of the heavy libraries it imported."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(run(script, words))
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), text_of(out), text_of(err)


def run(script: str, words: str) -> int:
    heavy, sys.argv = sys.argv[1:], [script, *words.split()]
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001 - printed, as by the interpreter
        traceback.print_exc()
        code = 1
    print("imported:", *[name for name in heavy if name in sys.modules], flush=True)
    sys.stderr.flush()
    return code


def text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


if __name__ == "__main__":
    for name in SHARED:
        importlib.import_module(name)
    json.dump([start(script, words) for script, words in json.load(sys.stdin)], sys.stdout)
