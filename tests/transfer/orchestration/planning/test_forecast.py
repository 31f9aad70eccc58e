"""The cost of tasks: measured for every protocol, shared where work is shared, nothing for what is done."""

import dataclasses
import datetime
import math

import pytest
import torch

from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import (
    PLAIN,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.transfer.orchestration.tiny_suites import save_untrained
from transfer.orchestration.planning import measurement
from transfer.orchestration.planning.cost import Cost, Probe
from transfer.orchestration.planning.forecast import COSTS, Forecast, cost_of, forecasts, makespan
from transfer.orchestration.planning.plan_table import plan_table, totals
from transfer.orchestration.protocols import PROTOCOLS
from transfer.orchestration.smoke import SETTINGS, smoke_config, untrained_checkpoint
from transfer.orchestration.suite_config import Config
from transfer.orchestration.task_graph import changed, plan_suite
from transfer.orchestration.task_state import Standing

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch):
    monkeypatch.setattr(measurement, "SECONDS", 0.02)


@pytest.fixture
def plan_of(tmp_path, monkeypatch, make_folder):
    """The plan of a suite on 48 small images, 8 of them to score."""
    save_untrained(tmp_path / "checkpoint.pth")
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    data = make_folder(train=20, val=4)

    def make(*only: str, **settings):
        settings = {"only": only, "skip": ("gate",), "device": "cpu", "workers": 1} | settings
        config = Config(
            checkpoint=tmp_path / "checkpoint.pth",
            data=(str(data),),
            output=tmp_path / "runs",
            random_fine_tuned=0,
            **settings,
        )
        return plan_suite(config, config.all_checkpoints)

    return make


def test_there_is_a_cost_for_every_script_of_the_suite():
    assert {protocol.script for protocol in PROTOCOLS} <= set(COSTS)


def test_every_protocol_of_the_smoke_test_can_be_measured(tmp_path):
    config = smoke_config(Config(smoke=True, random_seeds=0, random_fine_tuned=0, device="cpu"))
    plan = plan_suite(config, [untrained_checkpoint(tmp_path)], SETTINGS)
    for planned in forecasts(plan.tasks, CPU):
        cost = planned.cost
        assert cost.note == "", planned.task.key
        assert 0 < cost.total < math.inf, planned.task.key
        assert cost.memory > 1e8, planned.task.key  # PyTorch alone takes more
        assert cost.network > 0


def test_features_count_once_per_network_and_not_if_they_are_in_the_cache(plan_of):
    plan = plan_of("knn", "linear", random_seeds=1)
    first = {one.task.key: one.cost for one in forecasts(plan.tasks, CPU)}
    images, width = 48, 256  # resnet18-narrow
    assert first["pretrained/knn"].disk == images * (4 * width + 8)
    assert first["random-0/knn"].disk == first["pretrained/knn"].disk
    for name in ("pretrained/linear", "random-0/linear"):
        assert first[name].disk == first[name].seconds["features"] == 0
    plan.tasks[0].run()
    again = {one.task.key: one.cost for one in forecasts(plan.tasks, CPU)}
    assert again["pretrained/knn"].seconds["features"] == 0
    assert again["random-0/knn"].seconds["features"] > 0


def test_a_done_task_costs_nothing_and_times_add_up(plan_of):
    plan = plan_of("knn", "linear", random_seeds=0)
    knn, linear = forecasts(plan.tasks, CPU, done=["pretrained/knn"])
    assert knn.done
    assert knn.cost == Cost()
    assert linear.ends == pytest.approx(linear.cost.total)


def test_measuring_writes_nothing(plan_of, tmp_path):
    plan = plan_of("knn", "linear", "logistic", random_seeds=1)
    before = sorted(tmp_path.rglob("*"))
    list(forecasts(plan.tasks, CPU))
    assert sorted(tmp_path.rglob("*")) == before


def test_tasks_of_other_weights_are_measured_once(plan_of):
    plan = plan_of("knn", random_seeds=2)
    costs = [one.cost for one in forecasts(plan.tasks, CPU)]
    assert len({cost.total for cost in costs}) == 1


def test_a_task_that_cannot_be_measured_says_why(plan_of, monkeypatch):
    def fail(config, probe):
        raise UserError("no images in train.\nGive others.")

    (task,) = plan_of("knn", random_seeds=0).tasks
    monkeypatch.setitem(COSTS, "knn", fail)
    assert cost_of(task, Probe(CPU)) == Cost(note="no images in train.")


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("name", ["knn", "semisupervised"])
def test_a_network_that_does_not_take_the_size_of_the_images_says_so(plan_of, tmp_path, name):
    """A bare file of a vision transformer does not say how to adapt its position embeddings."""
    torch.save(timm_model(PLAIN).state_dict(), tmp_path / "checkpoint.pth")
    (task,) = plan_of(name, random_seeds=0).tasks
    smaller = changed(task.config, {"transform.resize": 16, "transform.crop": 16})
    cost = cost_of(dataclasses.replace(task, config=smaller), Probe(CPU))
    assert cost.note.startswith("the images have 16 x 16 pixels, but the position embeddings")


def test_the_table_has_a_row_per_task_and_the_totals_follow(plan_of):
    knn, linear = plan_of("knn", "linear", random_seeds=0).tasks
    cost = Cost({"features": 60.0, "search": 5.0}, memory=10**9, disk=2 * 10**9, network=123.4)
    planned = [Forecast(knn, cost, False, 65.0), Forecast(linear, Cost(note="?"), False, 65.0)]
    now = datetime.datetime(2026, 3, 1, 12, 0)
    states = {task.key: Standing("new") for task in (knn, linear)}
    table = plan_table(planned, states, now, terminal=False)
    assert table.row_count == 2
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[2:] == [
        *("to run", "", "123", "1.0 GB", "2.0 GB", "1 min 05 s", "12:01"),
        "features 1 min 00 s, search 5 s",
    ]
    lines = totals(planned, places=1, gpus=0, now=now, free=5 * 10**9)
    assert lines == [
        "one after another: 1 min 05 s, until 12:01",
        "disk: 2.0 GB of 5.0 GB that are free",
        "memory of the largest task: 1.0 GB",
        "not included: 1 tasks that could not be measured",
    ]


def test_without_costs_the_totals_have_no_blanks():
    now = datetime.datetime(2026, 3, 1, 12, 0)
    assert totals([], places=1, gpus=0, now=now, free=5 * 10**9) == [
        "one after another: 0 s, until 12:00",
        "disk: nothing of 5.0 GB that are free",
    ]


@pytest.mark.parametrize(("places", "seconds"), [(1, 9.0), (2, 6.0), (3, 4.0)])
def test_side_by_side_the_longest_place_counts(plan_of, places, seconds):
    tasks = plan_of("knn", "linear", "logistic", random_seeds=0).tasks
    planned = [
        Forecast(task, Cost({"fit": s}), False, 0.0)
        for task, s in zip(tasks, (3.0, 2.0, 4.0), strict=True)
    ]
    assert makespan(planned, places) == seconds
