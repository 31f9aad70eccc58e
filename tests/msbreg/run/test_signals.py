"""A signal stops a loop at its next step, and terminates a process that is stuck."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msbreg.run.signals import stop_signal

ROOT = Path(__file__).resolve().parents[3]


def nothing() -> None:
    """A final record that is not written, because the process is not stuck."""


def test_signals_become_a_stop_request_and_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal(nothing) as stop:
        stop.watched = True
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # torchrun forwards the signal that a scheduler sent
        assert stop
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_ctrl_c_interrupts_immediately():
    with pytest.raises(KeyboardInterrupt), stop_signal(nothing) as stop:
        stop.watched = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_immediately_if_no_loop_watches(number):
    with pytest.raises(KeyboardInterrupt), stop_signal(nothing):
        signal.raise_signal(number)


def signaled(number: int, script: str, *arguments: str) -> tuple[int, str, str]:
    """Signal a script when it prints "ready"; return its exit code, further output and errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, message = process.communicate(timeout=60)
    return process.returncode, out, message


IMPORTING = """
import sys, time
from msbreg.run.options import read_options
from pretrain.recipe import Config
sys.argv = ["run.py", "--output", sys.argv[1]]
read_options(Config)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_gives_one_message(tmp_path, how):
    code, _, message = signaled(how, IMPORTING, str(tmp_path / "run"))
    assert code == 75
    assert message == "interrupted; run the same command to continue or start over.\n"


STUCK = """
import ctypes, signal, sys, time
from msbreg.run import signals
signals.SECONDS_TO_REACT, signals.SECONDS_TO_SAVE = {limits}
with signals.stop_signal(lambda: print("recorded", flush=True)) as stop:
    stop.watched = True
    print("ready", flush=True)
    {body}
print("not reached")
"""


@pytest.mark.parametrize(
    ("body", "limits", "reason"),
    [
        # A library call that waits forever and restarts when it is interrupted, like a lock.
        ("while True: ctypes.CDLL(None).sleep(60)", (0.3, 50), "no step within 0.3 s"),
        (
            "while True: ctypes.PyDLL(None)._exit if stop.watched else 0",
            (0.3, 50),
            "no step within 0.3 s",
        ),
        ("while True: bool(stop)", (50, 0.3), "saving took more than 0.3 s"),
    ],
    ids=["stuck in a library", "never checks", "never ends"],
)
def test_a_stuck_run_is_terminated_with_a_message_and_code_75(body, limits, reason):
    code, out, message = signaled(signal.SIGTERM, STUCK.format(body=body, limits=limits))
    assert code == 75, message
    assert f"interrupted: SIGTERM: {reason}" in message
    assert "Run the same command to continue" in message
    assert out == "recorded\n"


def test_terminating_a_worker_does_not_stop_its_parent():
    script = """
import os, signal, time
from msbreg.run import signals
signals.SECONDS_TO_REACT = 0.2
with signals.stop_signal(lambda: print("ended")) as stop:
    stop.watched = True
    worker = os.fork()
    if not worker:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.1)
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.6)
    os.kill(worker, signal.SIGKILL)
    print("alive", bool(stop))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "alive False\n", done.stderr


def test_a_loop_that_reacts_has_time_to_save():
    script = """
import os, signal, time
from msbreg.run import signals
signals.SECONDS_TO_REACT = 0.7
with signals.stop_signal(lambda: print("ended")) as stop:
    stop.watched = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop
    time.sleep(1)
print("saved")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "saved\n", done.stderr


COMPLETE = """
import atexit, sys, time
from msbreg.run.config import Card
from msbreg.run.options import main
def wait():
    print("ready", flush=True)
    time.sleep(30)
    print("not ended", flush=True)
atexit.register(wait)
main(lambda config, card: print("done", file=sys.stderr), None, Card())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_a_complete_run_ends_the_process_without_a_traceback(number):
    assert signaled(number, COMPLETE) == (0, "", "done\n")
