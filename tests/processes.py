"""Run programs in processes of their own, without importing PyTorch in each of them.

The first start imports PyTorch and the scripts once, in a server; every program is a fork of this server.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["pretrain.run", "transfer.detection", "transfer.linear", "transfer.suite"]
)


class Program:
    """A script or module in a process of its own, started as by ``python``.

    Args:
        name: path of a script, or name of a module.
        words: its arguments.
    """

    def __init__(
        self,
        name: Path | str,
        words: Sequence[object],
        *,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="msbreg-test-")
        self._output = Path(self._folder.name)
        self._process = _CONTEXT.Process(
            target=_run,
            args=(name, list(map(str, words)), cwd, QUIET | dict(environment or {}), self._output),
        )
        self._process.start()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 240) -> tuple[int, str, str]:
        """The exit code, standard output and standard error of the program."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        out, err = self._text("out"), self._text("err")
        self._folder.cleanup()
        if code is None:
            raise TimeoutError(f"the program has not ended after {seconds} s\n{err}")
        return code, out, err

    def _text(self, name: str) -> str:
        return (self._output / name).read_text(errors="replace")


def _run(
    name: Path | str, words: list[str], cwd: Path, environment: dict[str, str], output: Path
) -> None:
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / stream, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [str(name), *words]
    if isinstance(name, Path):
        sys.path.insert(0, str(name.parent))
        runpy.run_path(str(name), run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_code(
    code: str, *words: object, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run source code as ``python FILE WORDS ...``; return what ``Program.wait`` returns."""
    with tempfile.TemporaryDirectory(prefix="msbreg-test-") as folder:
        file = Path(folder) / "program.py"
        file.write_text(code)
        return Program(file, words, cwd=cwd, environment=environment).wait()


def run_group(
    name: Path | str, *words: object, cwd: Path = ROOT, processes: int = 2
) -> list[tuple[int, str, str]]:
    """Run a program in a group of processes, as ``torchrun`` does; return what ``wait`` returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        Program(name, words, cwd=cwd, environment=group | {"RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(processes)
    ]
    return [program.wait() for program in started]


def run_pair(module: str, *words: object) -> list[int]:
    """Run ``python -m MODULE WORDS ...`` as ranks 0 and 1 of a group; return the exit codes."""
    return run_many(module, 2, *words)


def run_many(module: str, processes: int, *words: object) -> list[int]:
    """Run ``python -m MODULE WORDS ...`` as the ranks of a group; return the exit codes."""
    outcomes = run_group(module, *words, processes=processes)
    for code, _, message in outcomes:
        if code:
            sys.stderr.write(message)  # pytest shows it if the test fails
    return [code for code, _, _ in outcomes]
