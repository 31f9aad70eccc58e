"""The loop with a toy: steps, parts, statistics, looks, and what stops it."""

import dataclasses

import pytest
import torch
from transfer.detectors.train_loop import State, divide, train

from msbreg.run.errors import RunFailed, UserError
from tests.transfer.detectors.toys import Toy, batches, config, new_state, sample
from transfer.detectors import continuing
from transfer.detectors.batch_norm import update_bn_stats
from transfer.detectors.predict import NotFinite
from transfer.detectors.solver import Plan, plan_of

CPU = torch.device("cpu")
PLAN = Plan(iterations=12, checkpoint_period=4, evaluation_period=5, precise_bn=3, row_period=4)


class Watched:
    """What the loop calls, in order."""

    def __init__(self, stop_at: int | None = None, folder=None) -> None:
        self.rows: list[dict] = []
        self.saved: list[int] = []
        self.looked: list[int] = []
        self.stop_at, self.folder = stop_at, folder

    def each_iteration(self, state: State, losses: dict, row: dict | None) -> None:
        if row:
            self.rows.append(row)
        if state.iteration == self.stop_at:
            raise KeyboardInterrupt

    def save(self, state: State) -> None:
        self.saved.append(state.iteration)
        if self.folder:
            continuing.save(state, self.folder / "checkpoint.pth", {})

    def look(self, state: State) -> None:
        self.looked.append(state.iteration)
        state.model.eval()
        torch.rand(100)  # as an evaluation that draws random numbers


def run(state: State, plan: Plan, watched: Watched | None = None) -> Watched:
    watched = watched or Watched()
    train(
        state,
        batches(state.iteration),
        plan,
        device=CPU,
        statistics_batches=lambda iteration: batches(1000 + iteration),
        each_iteration=watched.each_iteration,
        save=watched.save,
        look=watched.look,
    )
    return watched


def differing(one: torch.nn.Module, other: torch.nn.Module) -> list[str]:
    """Names of the tensors that are not equal bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.fixture
def cfg(tmp_path):
    return config(tmp_path, "SOLVER.BASE_LR", "0.05")


def test_it_saves_looks_and_reports_when_it_is_due(cfg):
    state = new_state(cfg)
    watched = run(state, PLAN)
    assert watched.looked == [5, 10, 12]
    assert watched.saved == [4, 5, 5, 8, 10, 10, 12, 12]
    assert [row["iteration"] for row in watched.rows] == [4, 8, 12]
    first = watched.rows[0]
    assert first["total_loss"] == pytest.approx(first["loss_cls"] + first["loss_box_reg"])
    assert first["learning_rate"] == 0.05 / 4
    assert state.model.training


def test_it_is_plain_sgd(cfg):
    ours, slow = new_state(cfg), new_state(cfg)
    torch.manual_seed(5)
    run(ours, Plan(iterations=3))
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(
        [
            {"params": [*slow.model.conv.parameters(), *slow.model.head.parameters()]},
            {"params": slow.model.norm.parameters(), "weight_decay": 0.0},
        ],
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
    )
    for number, batch in zip(range(3), batches(0), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + number)
        optimizer.zero_grad()
        losses = slow.model(batch)
        (losses["loss_cls"] + losses["loss_box_reg"]).backward()
        optimizer.step()
    assert not differing(ours.model, slow.model)


@pytest.mark.parametrize("stop_at", [3, 4, 5, 7, 10, 11])
def test_a_run_continued_from_its_last_checkpoint_ends_with_the_same_bits(cfg, tmp_path, stop_at):
    whole = new_state(cfg)
    torch.manual_seed(7)
    complete = run(whole, PLAN)

    broken = new_state(cfg)
    torch.manual_seed(7)
    before = Watched(stop_at, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(broken, PLAN, before)
    again = new_state(cfg, seed=99)
    torch.manual_seed(99)
    if before.saved:
        path = tmp_path / "checkpoint.pth"
        assert continuing.restore(again, continuing.read(path), path) is None
        assert again.iteration == before.saved[-1]
    else:
        again = new_state(cfg)
        torch.manual_seed(7)
    after = run(again, PLAN)
    assert not differing(whole.model, again.model)
    kept = [row for row in before.rows if row["iteration"] <= (before.saved or [0])[-1]]
    assert kept + after.rows == complete.rows
    assert sorted({*before.looked, *after.looked}) == complete.looked


def test_a_checkpoint_before_an_evaluation_continues_with_the_evaluation(cfg, tmp_path):
    class Killed(Watched):
        def look(self, state):
            raise KeyboardInterrupt

    whole, broken, again = new_state(cfg), new_state(cfg), new_state(cfg, seed=99)
    torch.manual_seed(7)
    run(whole, PLAN)
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        run(broken, PLAN, Killed(folder=tmp_path))
    path = tmp_path / "checkpoint.pth"
    continuing.restore(again, continuing.read(path), path)
    assert run(again, PLAN).looked == [5, 10, 12]
    assert not differing(whole.model, again.model)


def test_how_often_one_looks_does_not_change_the_weights(cfg):
    seldom, often = new_state(cfg), new_state(cfg)
    torch.manual_seed(7)
    run(seldom, PLAN)
    torch.manual_seed(7)
    run(often, dataclasses.replace(PLAN, evaluation_period=1, checkpoint_period=1))
    for name, value in seldom.model.named_parameters():
        assert torch.equal(value, often.model.get_parameter(name)), name


def test_statistics_before_an_evaluation_are_those_of_all_pixels(cfg):
    state = new_state(cfg)
    run(state, PLAN)
    model = state.model
    seen = torch.cat(
        [batch_pixels(model, b) for b, _ in zip(batches(1012), range(3), strict=False)]
    )
    mean, variance = seen.mean(0), seen.var(0, unbiased=False)
    assert torch.allclose(model.norm.running_mean, mean, atol=1e-6)
    assert torch.allclose(model.norm.running_var, variance, atol=1e-6)
    assert not torch.allclose(model.norm.running_var, torch.ones(4), atol=1e-3)


def batch_pixels(model: Toy, batch) -> torch.Tensor:  # (N, 4) what the norm layer sees
    with torch.no_grad():
        images = torch.stack([s.image for s in batch]).float() / 255
        return model.conv(images).flatten(2).transpose(1, 2).reshape(-1, 4)


def test_statistics_are_fvcores(cfg):
    state = new_state(cfg)
    run(state, PLAN)
    twin = Toy()
    twin.load_state_dict(state.model.state_dict())
    update_bn_stats(twin, [b for b, _ in zip(batches(1012), range(3), strict=False)], 3)
    assert torch.equal(twin.norm.running_var, state.model.norm.running_var)


def test_a_batch_in_parts_has_the_gradient_of_the_mean_over_parts(cfg):
    state = new_state(cfg)
    torch.manual_seed(3)
    run(state, Plan(iterations=1, accumulate=2))
    slow = new_state(cfg).model
    torch.manual_seed(3)
    batch = next(batches(0))
    for part in (batch[:2], batch[2:]):
        (sum(slow(part).values()) / 2).backward()
    for name, value in state.model.named_parameters():
        assert torch.equal(value.grad, slow.get_parameter(name).grad), name


def test_parts_must_divide_the_batch():
    samples = [sample(i) for i in range(6)]
    assert [len(part) for part in divide(samples, 3)] == [2, 2, 2]
    for parts in (4, 7):
        words = f"--accumulate {parts} cannot divide a batch of 6 .* a divisor: 1, 2, 3, 6"
        with pytest.raises(UserError, match=words):
            divide(samples, parts)


def test_bf16_trains_in_bf16_and_keeps_float32_weights(cfg):
    full, half = new_state(cfg), new_state(cfg)
    torch.manual_seed(3)
    run(full, Plan(iterations=2))
    torch.manual_seed(3)
    run(half, Plan(iterations=2, bf16=True))
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert "conv.weight" in differing(full.model, half.model)
    assert torch.allclose(full.model.conv.weight, half.model.conv.weight, atol=1e-2)


class Diverging(Toy):
    """Its box loss becomes infinite in the sixth iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, samples):
        losses = super().forward(samples)
        self.calls += self.training
        if self.calls == 6:
            losses["loss_box_reg"] = losses["loss_box_reg"] / 0
        return losses


def test_a_loss_that_is_not_finite_stops_with_its_name_and_the_weights_before(cfg):
    state = new_state(cfg)
    state.model.__class__ = Diverging
    state.model.calls = 0
    watched = Watched()
    with pytest.raises(RunFailed, match="training diverged at iteration 5: loss_box_reg = inf"):
        run(state, dataclasses.replace(PLAN, evaluation_period=0), watched)
    assert watched.saved == [4]
    assert all(torch.isfinite(p).all() for p in state.model.parameters())
    assert state.iteration == 5


def test_in_parts_it_stops_as_well(cfg):
    state = new_state(cfg)
    state.model.__class__ = Diverging
    state.model.calls = 0
    with pytest.raises(RunFailed, match="diverged at iteration 2: loss_box_reg = inf"):
        run(state, Plan(iterations=12, accumulate=2))


def test_proposals_that_are_not_finite_say_the_same(cfg):
    state = new_state(cfg)
    state.model.forward = lambda samples: (_ for _ in ()).throw(FloatingPointError("proposals."))
    with pytest.raises(RunFailed, match=r"diverged at iteration 0: proposals\.\nTry a smaller"):
        run(state, PLAN)


def test_proposals_may_diverge_while_statistics_are_made_precise(cfg):
    state = new_state(cfg)
    state.iteration = 12  # all is trained
    state.model.forward = lambda samples: (_ for _ in ()).throw(FloatingPointError("proposals"))
    watched = Watched()
    with pytest.raises(RunFailed, match="diverged at iteration 12: proposals"):
        run(state, PLAN, watched)
    assert watched.saved == []


class Spoiled(Toy):
    """Its sixth step leaves a weight that is no number, behind a loss that is one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, samples):
        losses = super().forward(samples)
        self.calls += self.training
        if self.calls == 6:
            losses["loss_cls"] = losses["loss_cls"] + (self.head.weight.sum() * 0).sqrt()
        return losses


@pytest.mark.parametrize(
    ("plan", "iteration"),
    [(Plan(iterations=12, checkpoint_period=1), 6), (Plan(iterations=6, checkpoint_period=5), 6)],
    ids=["a checkpoint is due", "the last step"],
)
def test_weights_that_are_not_finite_are_not_saved(cfg, tmp_path, plan, iteration):
    state = new_state(cfg)
    state.model.__class__ = Spoiled
    state.model.calls = 0
    with pytest.raises(RunFailed, match=f"diverged at iteration {iteration}: .*head.weight"):
        run(state, plan, Watched(folder=tmp_path))
    saved = continuing.read(tmp_path / "checkpoint.pth")
    assert saved["iteration"] == 5
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_the_plan_is_the_yamls(tmp_path):
    words = ["SOLVER.MAX_ITER", "90", "SOLVER.STEPS", "(60,)", "TEST.PRECISE_BN.ENABLED", "True"]
    plan = plan_of(config(tmp_path, *words), accumulate=2, amp="bf16", seed=4)
    assert plan == Plan(90, 2, True, 5000, 0, 200, 4)
    with pytest.raises(UserError, match="float16"):
        plan_of(config(tmp_path, "SOLVER.AMP.ENABLED", "True"), accumulate=1, amp="no", seed=0)
    with pytest.raises(UserError, match="ascending order"):
        plan_of(config(tmp_path, "SOLVER.STEPS", "(5,2)"), accumulate=1, amp="no", seed=0)


def test_predictions_of_ruined_weights_say_what_to_lower(cfg):
    class Looking(Watched):
        def look(self, state):
            raise NotFinite("scores for image 3 are not finite numbers.\nLook at the pixels.")

    with pytest.raises(RunFailed, match=r"iteration 5: scores .* numbers\.\nTry a smaller SOLVER"):
        run(new_state(cfg), PLAN, Looking())
