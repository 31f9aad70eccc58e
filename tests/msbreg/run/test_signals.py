"""A signal stops a loop at its next step, and ends a process that has no next step."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msbreg.run.signals import stop_signal

ROOT = Path(__file__).resolve().parents[3]


def nothing() -> None:
    """Last words of a process that is not stuck."""


def test_signals_become_a_wish_and_are_put_back_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal(nothing) as stop:
        stop.watched = True
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # torchrun passes on what a scheduler sent to all
        assert stop
        assert stop.name == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), stop_signal(nothing) as stop:
        stop.watched = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once_where_nobody_watches(number):
    with pytest.raises(KeyboardInterrupt), stop_signal(nothing):
        signal.raise_signal(number)


STUCK = """
import ctypes, signal, sys, time
from msbreg.run import signals
signals.SECONDS_TO_REACT = signals.SECONDS_TO_SAVE = 0.3
with signals.stop_signal(lambda: print("last words", flush=True)) as stop:
    stop.watched = True
    print("ready", flush=True)
    {body}
print("not reached")
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        # A library that waits for ever and starts again when it is interrupted, as a lock does.
        ("while True: ctypes.CDLL(None).sleep(60)", "no step within 0.3 s"),
        ("while True: ctypes.PyDLL(None)._exit if stop.watched else 0", "no step within 0.3 s"),
        ("while True: bool(stop)", "saving took more than 0.3 s"),
    ],
    ids=["waits in a library", "never looks", "never ends"],
)
def test_a_run_that_makes_no_step_ends_with_a_message_and_code_75(body, said):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK.format(body=body)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, message = process.communicate(timeout=60)
    assert process.returncode == 75, message
    assert f"interrupted: SIGTERM: {said}" in message
    assert "The same command continues" in message
    assert out == "last words\n"


def test_a_worker_that_is_terminated_does_not_end_its_parent():
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


def test_a_loop_that_looks_has_time_to_save():
    script = """
import os, signal, time
from msbreg.run import signals
signals.SECONDS_TO_REACT = 0.2
with signals.stop_signal(lambda: print("ended")) as stop:
    stop.watched = True
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop
    time.sleep(0.6)
print("saved")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "saved\n", done.stderr
