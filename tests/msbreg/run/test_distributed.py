"""Decisions that the main process makes for all processes, and messages that they share."""

import json
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from msbreg.run import distributed
from msbreg.run.errors import UserError
from tests.processes import ROOT, Program, run_pair


def test_decisions_and_errors_of_the_main_process_reach_all_processes(make_folder, tmp_path):
    root = make_folder(train=3) / "train"
    (root / "class1" / "002.png").write_bytes(b"no image")
    assert run_pair("tests.msbreg.run.shared_decision", root, tmp_path) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["skipped"] == ["class1/002.png"]
    assert len(first["paths"]) == 5
    assert first["error"] == "rejected by the main process"


def test_with_one_process_gathering_by_index_returns_the_rows():
    rows = torch.arange(10).view(5, 2)
    assert torch.equal(distributed.gather_by_index(rows, 5), rows)


def test_with_one_process_the_function_is_called_directly():
    assert distributed.from_main(lambda: 3) == 3

    def refuse():
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        distributed.from_main(refuse)


def test_with_gpus_control_messages_use_a_group_of_their_own_on_the_cpu(monkeypatch):
    """PyTorch is replaced, because NCCL needs a GPU."""
    used = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "init_process_group", lambda name, **_: used.append(name))
    monkeypatch.setattr(dist, "new_group", lambda backend, timeout: f"a group of {backend}")
    monkeypatch.setattr(
        dist, "all_reduce", lambda flags, op, group: used.append((flags.device.type, group))
    )
    monkeypatch.setattr(distributed, "_cpu_group", None)
    distributed.join(torch.device("cuda", 0))
    assert distributed.any_of([True, False]) == [True, False]
    assert used == ["nccl", ("cpu", "a group of gloo")]


def test_a_kept_group_is_left_after_the_last_run(monkeypatch):
    left = []
    monkeypatch.setattr(dist, "is_initialized", lambda: not left)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append("group"))
    with distributed.kept():
        distributed.stop()
        assert left == []
    assert left == ["group"]


@pytest.fixture
def agent() -> Iterator[dict[str, str]]:
    """The environment that torchrun's agent gives to its processes, with its store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": "2",
    }
    del store


def ends_of(agent: dict[str, str], *options: str) -> list[tuple[int, str]]:
    """Exit code and messages of a process of torchrun for each option."""
    script = ROOT / "transfer" / "knn.py"
    programs = [
        Program(script, [option], environment=agent | {"RANK": str(rank)})
        for rank, option in enumerate(options)
    ]
    return [(code, err) for code, _, err in (program.wait() for program in programs)]


def test_of_several_processes_with_the_same_error_one_prints_it(agent):
    (first, one), (second, other) = ends_of(agent, "--temprature=3", "--temprature=3")
    assert first == second == 2
    assert sorted([one, other])[0] == ""
    assert "did you mean --temperature?" in one + other


def test_processes_with_different_errors_print_both(agent):
    (_, one), (_, other) = ends_of(agent, "--temprature=3", "--xyzzy=3")
    assert "--temprature is unknown" in one
    assert "--xyzzy is unknown" in other
