"""Output files are written atomically, under a lock, never through links; user files are kept."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from msbreg.run import files
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.files import (
    open_no_follow,
    output_folder,
    remove_temporary_files,
    reserved_space,
    temporary_name,
    write_atomically,
    writing,
)

ROOT = Path(__file__).resolve().parents[3]
FULL = Path("/dev/full")


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_reports_what_is_preserved(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(RunFailed) as caught:
            write_atomically(path, bytes(2**20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"cannot write {path} (1.0 MiB): File too large; the previous file is untouched.\n"
        "Free some space, or give another --output, then run the same command to continue."
    )
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_reported_with_a_remedy():
    with (
        pytest.raises(RunFailed, match=r"cannot write /dev/full: No space left.*\nFree some space"),
        writing(FULL),
        open(FULL, "w") as file,
    ):
        file.write("x")


def test_only_our_own_temporary_files_are_removed(tmp_path):
    ours = temporary_name(tmp_path / "record.json")
    theirs = [tmp_path / n for n in (".notes.tmp", ".writable", ".a.12.tmp", "b.12.msbreg-tmp")]
    for path in (ours, *theirs):
        path.touch()
    remove_temporary_files(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(theirs)


@pytest.mark.parametrize("name", [".lock", "log.txt"])
def test_a_symbolic_link_is_rejected_and_its_target_untouched(tmp_path, name):
    target = tmp_path / "precious"
    target.write_text("data")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(UserError, match=f"{name} is a symbolic link; expected a regular file"):
        open_no_follow(folder / name, os.O_RDWR)
    assert target.read_text() == "data"


def test_a_pipe_in_place_of_the_log_is_rejected_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "log.txt")
    with pytest.raises(UserError, match="cannot be written"):
        open_no_follow(tmp_path / "log.txt", os.O_WRONLY | os.O_APPEND)


def test_the_content_of_a_lock_file_is_preserved(tmp_path):
    (tmp_path / ".lock").write_text("somebody's")
    with output_folder(tmp_path) as new:
        assert not new
    assert (tmp_path / ".lock").read_text() == "somebody's"


def test_a_folder_can_be_used_by_one_run_at_a_time(tmp_path):
    with (
        output_folder(tmp_path / "run"),
        pytest.raises(UserError, match="another run is writing to"),
        output_folder(tmp_path / "run"),
    ):
        raise AssertionError("not reached")


def test_an_empty_new_folder_is_removed_with_its_parents(tmp_path):
    with output_folder(tmp_path / "a" / "b") as new:
        assert new
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    with output_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    with output_folder(tmp_path / "a" / "c"):
        pass
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b"}


def test_the_folder_is_created_again_if_it_was_removed_before_locking(tmp_path, monkeypatch):
    """Another run that ends can remove the folder between our opening and locking of the file."""
    folder = tmp_path / "run"
    lock, attempts = files._lock, []

    def lock_late(file: int, path: Path) -> None:
        if not attempts:
            (folder / ".lock").unlink()
            folder.rmdir()
        attempts.append(file)
        lock(file, path)

    monkeypatch.setattr(files, "_lock", lock_late)
    with output_folder(folder) as new:
        assert new
        assert (folder / ".lock").is_file()
    assert len(attempts) == 2


def test_of_simultaneous_starts_at_least_one_succeeds_and_the_others_are_rejected(tmp_path):
    script = (
        "import sys, time; from pathlib import Path\n"
        "from msbreg.run.files import output_folder\n"
        "from msbreg.run.errors import UserError\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "try:\n"
        "    with output_folder(Path(sys.argv[1])): time.sleep(0.3)\n"
        "except UserError as error: sys.exit(str(error))\n"
    )
    moment = subprocess.check_output([sys.executable, "-c", "import time; print(time.time() + 1)"])
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "run"), moment],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    messages = [process.communicate(timeout=60)[1] for process in starts]
    assert all(message in ("",) or "another run is writing" in message for message in messages), (
        messages
    )
    assert "" in messages


def test_disk_space_is_reserved_and_released(tmp_path):
    with reserved_space(tmp_path) as path:
        assert path.stat().st_blocks * 512 >= files.RESERVED
    assert not list(tmp_path.iterdir())


def test_without_space_for_a_record_no_run_starts(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        with pytest.raises(RunFailed, match="nothing was started"), reserved_space(tmp_path):
            raise AssertionError("not reached")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_output_path_that_is_a_file_is_rejected(tmp_path, place):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot be written: .*; give another --output"),
        output_folder(tmp_path / place),
    ):
        raise AssertionError("not reached")


def test_a_file_is_on_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    write_atomically(tmp_path / "record.json", b"{}")
    assert done == ["sync", "replace", "sync"]  # the file, then the name in its folder


KILLED_WITH_A_WORKER = """
import multiprocessing, os, sys, time
from pathlib import Path
from msbreg.run.files import output_folder

def work():
    print(os.getpid(), flush=True)
    time.sleep(600)

with output_folder(Path(sys.argv[1])):
    multiprocessing.get_context("fork").Process(target=work).start()
    time.sleep(600)
"""


def test_the_workers_of_a_killed_run_do_not_hold_its_lock(tmp_path):
    command = [sys.executable, "-c", KILLED_WITH_A_WORKER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        try:
            with pytest.raises(UserError, match="another run"), output_folder(tmp_path):
                pass
            run.kill()
            run.wait()
            os.kill(worker, 0)  # raises if the worker has ended
            with output_folder(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)
