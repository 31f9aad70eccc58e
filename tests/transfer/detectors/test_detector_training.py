"""Training a toy detector: steps, accumulation, statistics, evaluations and failures."""

import dataclasses
from pathlib import Path

import pytest
import torch

from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.progress import Progress
from msbreg.train.health import NotFinite, memory_advice
from msbreg.train.loop import Plan, train
from msbreg.train.state import State
from tests.transfer.detectors.toys import Toy, batches, config, new_job, new_training, sample
from transfer.detectors.batch_norm import update_bn_stats
from transfer.detectors.detector_training import (
    KIND,
    TESTING_ADVICE,
    DetectorTraining,
    MemoryNeeds,
    checkpoint_of,
    divide,
    plan_of,
    read_checkpoint,
    resume,
    training_advice,
)

CPU = torch.device("cpu")
PLAN = Plan(steps=12, save_every=4, evaluate_every=5, row_every=4)


class Stopped(KeyboardInterrupt):
    """Stands for a kill between two steps."""


class Run:
    """A call of ``train`` in a folder, which records the hooks that it calls."""

    def __init__(
        self, folder: Path, training: DetectorTraining, stop_at: int | None = None
    ) -> None:
        self.folder, self.training, self.stop_at = folder, training, stop_at
        self.state = State()
        self.checkpoint = checkpoint_of(folder / "checkpoint.pth", {})
        self.evaluated: list[int] = []
        self.saved: list[int] = []

    def evaluate(self, iteration: int) -> dict | None:
        self.evaluated.append(iteration)
        self.training.model.eval()
        torch.rand(100)  # like an evaluation that uses random numbers
        return None

    def __call__(self, plan: Plan) -> "Run":
        run = self

        class Watched(Progress):
            def update(self, done: int, text: str = "") -> None:
                if done == run.stop_at:
                    raise Stopped

        class Saved(type(self.checkpoint)):
            def save(self, trainable, state) -> None:
                super().save(trainable, state)
                run.saved.append(state.step)

        checkpoint = Saved(self.checkpoint.path, self.checkpoint.header)
        with Watched("training", plan.steps) as progress:
            train(
                self.training,
                batches(self.state.step),
                plan,
                self.state,
                checkpoint,
                job=new_job(self.folder),
                progress=progress,
                evaluate=self.evaluate,
            )
        return self

    def restored(self) -> "Run":
        content = read_checkpoint(self.checkpoint.path)
        assert self.checkpoint.restore(self.training, self.state, content) is None
        return self


def differing(one: torch.nn.Module, other: torch.nn.Module) -> list[str]:
    """Names of the tensors that are not equal bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.fixture
def cfg(tmp_path):
    return config(tmp_path, "SOLVER.BASE_LR", "0.05")


def test_the_loop_saves_evaluates_and_reports_on_schedule(cfg, tmp_path):
    run = Run(tmp_path, new_training(cfg, precise_bn=3))(PLAN)
    assert run.evaluated == [5, 10, 12]
    assert run.saved == [4, 5, 5, 8, 10, 10, 12, 12]
    assert [row["iteration"] for row in run.state.curve] == [4, 8, 12]
    first = run.state.curve[0]
    assert first["total_loss"] == pytest.approx(first["loss_cls"] + first["loss_box_reg"])
    assert first["learning_rate"] == 0.05 / 4
    assert run.training.model.training
    assert (tmp_path / "curve.jsonl").read_text().count("\n") == 3


def test_training_is_plain_sgd(cfg, tmp_path):
    ours, slow = new_training(cfg), new_training(cfg).model
    torch.manual_seed(5)
    Run(tmp_path, ours)(Plan(steps=3, row_every=20))
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(
        [
            {"params": [*slow.conv.parameters(), *slow.head.parameters()]},
            {"params": slow.norm.parameters(), "weight_decay": 0.0},
        ],
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
    )
    for number, batch in zip(range(3), batches(0), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + number)
        optimizer.zero_grad()
        losses = slow(batch)
        (losses["loss_cls"] + losses["loss_box_reg"]).backward()
        optimizer.step()
    assert not differing(ours.model, slow)


@pytest.mark.parametrize("stop_at", [3, 4, 5, 7, 10, 11])
def test_a_continued_run_ends_bit_for_bit_equal_to_an_uninterrupted_one(cfg, tmp_path, stop_at):
    (tmp_path / "whole").mkdir()
    torch.manual_seed(0)
    training = new_training(cfg, precise_bn=3)
    torch.manual_seed(7)
    whole = Run(tmp_path / "whole", training)(PLAN)

    broken = Run(tmp_path, new_training(cfg, precise_bn=3), stop_at)
    torch.manual_seed(7)
    with pytest.raises(Stopped):
        broken(PLAN)
    if broken.saved:
        again = Run(tmp_path, new_training(cfg, seed=99, precise_bn=3)).restored()
        torch_state_is_restored = again.state.step == broken.saved[-1]
        assert torch_state_is_restored
    else:
        again = Run(tmp_path, new_training(cfg, precise_bn=3))
        torch.manual_seed(7)
    again(PLAN)
    assert not differing(whole.training.model, again.training.model)
    assert again.state.curve == whole.state.curve
    one, other = (
        read_checkpoint(run.checkpoint.path)["loop"]["generators"] for run in (whole, again)
    )
    assert torch.equal(one[0]["torch"], other[0]["torch"]), "generators end as they would have"
    assert sorted({*broken.evaluated, *again.evaluated}) == whole.evaluated


def test_a_checkpoint_saved_before_an_evaluation_continues_with_it(cfg, tmp_path):
    class Killed(Run):
        def evaluate(self, iteration):
            raise Stopped

    (tmp_path / "whole").mkdir()
    whole = Run(tmp_path / "whole", new_training(cfg, precise_bn=3))
    torch.manual_seed(7)
    whole(PLAN)
    broken = Killed(tmp_path, new_training(cfg, precise_bn=3))
    torch.manual_seed(7)
    with pytest.raises(Stopped):
        broken(PLAN)
    again = Run(tmp_path, new_training(cfg, seed=99, precise_bn=3)).restored()
    assert again(PLAN).evaluated == [5, 10, 12]
    assert not differing(whole.training.model, again.training.model)


def test_the_evaluation_period_does_not_change_the_weights(cfg, tmp_path):
    seldom, often = (new_training(cfg, precise_bn=3) for _ in range(2))
    torch.manual_seed(7)
    Run(tmp_path, seldom)(PLAN)
    torch.manual_seed(7)
    Run(tmp_path, often)(dataclasses.replace(PLAN, evaluate_every=1, save_every=1))
    for name, value in seldom.model.named_parameters():
        assert torch.equal(value, often.model.get_parameter(name)), name


def test_precise_statistics_are_those_of_all_pixels(cfg, tmp_path):
    training = new_training(cfg, precise_bn=3)
    Run(tmp_path, training)(PLAN)
    model = training.model
    seen = torch.cat(
        [batch_pixels(model, b) for b, _ in zip(batches(1012), range(3), strict=False)]
    )
    mean, variance = seen.mean(0), seen.var(0, unbiased=False)
    assert torch.allclose(model.norm.running_mean, mean, atol=1e-6)
    assert torch.allclose(model.norm.running_var, variance, atol=1e-6)
    assert not torch.allclose(model.norm.running_var, torch.ones(4), atol=1e-3)


def batch_pixels(model: Toy, batch) -> torch.Tensor:  # (N, 4) inputs of the norm layer
    with torch.no_grad():
        images = torch.stack([s.image for s in batch]).float() / 255
        return model.conv(images).flatten(2).transpose(1, 2).reshape(-1, 4)


def test_precise_statistics_equal_fvcores(cfg, tmp_path):
    training = new_training(cfg, precise_bn=3)
    Run(tmp_path, training)(PLAN)
    twin = Toy()
    twin.load_state_dict(training.model.state_dict())
    update_bn_stats(twin, [b for b, _ in zip(batches(1012), range(3), strict=False)], 3)
    assert torch.equal(twin.norm.running_var, training.model.norm.running_var)


def test_a_batch_in_parts_has_the_gradient_of_the_mean_over_parts(cfg, tmp_path):
    training = new_training(cfg, accumulate=2)
    torch.manual_seed(3)
    Run(tmp_path, training)(Plan(steps=1, row_every=20))
    slow = new_training(cfg).model
    torch.manual_seed(3)
    batch = next(batches(0))
    for part in (batch[:2], batch[2:]):
        (sum(slow(part).values()) / 2).backward()
    for name, value in training.model.named_parameters():
        assert torch.equal(value.grad, slow.get_parameter(name).grad), name


def test_parts_must_divide_the_batch():
    samples = [sample(i) for i in range(6)]
    assert [len(part) for part in divide(samples, 3)] == [2, 2, 2]
    for parts in (4, 7):
        message = f"--accumulate {parts} does not divide the 6 images .* one of: 1, 2, 3, 6"
        with pytest.raises(UserError, match=message):
            divide(samples, parts)


def test_bf16_trains_in_bf16_and_keeps_float32_weights(cfg, tmp_path):
    full, half = new_training(cfg), new_training(cfg, bf16=True)
    for training in (full, half):
        torch.manual_seed(3)
        Run(tmp_path, training)(Plan(steps=2, row_every=20))
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert "conv.weight" in differing(full.model, half.model)
    assert torch.allclose(full.model.conv.weight, half.model.conv.weight, atol=1e-2)


class Diverging(Toy):
    """Has an infinite box loss in the sixth forward pass."""

    calls = 0

    def forward(self, samples):
        losses = super().forward(samples)
        self.calls += self.training
        if self.calls == 6:
            losses["loss_box_reg"] = losses["loss_box_reg"] / 0
        return losses


def spoiled_by(kind: type[Toy], cfg, **options) -> DetectorTraining:
    training = new_training(cfg, **options)
    training.model.__class__ = kind
    return training


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_previous_weights(cfg, tmp_path):
    run = Run(tmp_path, spoiled_by(Diverging, cfg))
    words = "training diverged at step 5: loss_box_reg = inf"
    with pytest.raises(RunFailed, match=words) as failed:
        run(dataclasses.replace(PLAN, evaluate_every=0))
    assert str(failed.value).endswith(f"{run.checkpoint.path} contains the state after step 4.")
    assert run.saved == [4]
    assert all(torch.isfinite(p).all() for p in run.training.model.parameters())
    assert run.state.step == 5


def test_a_loss_read_later_is_reported_with_its_step_and_nothing_is_saved(cfg, tmp_path):
    run = Run(tmp_path, spoiled_by(Diverging, cfg))
    with pytest.raises(RunFailed, match="training diverged at step 5: loss_box_reg = inf"):
        run(Plan(steps=12, row_every=9, save_every=8, read_every=9))
    assert run.saved == []


def test_an_accumulated_loss_that_is_not_finite_stops_the_run(cfg, tmp_path):
    run = Run(tmp_path, spoiled_by(Diverging, cfg, accumulate=2))
    with pytest.raises(RunFailed, match="diverged at step 2: loss_box_reg = inf") as failed:
        run(Plan(steps=12, row_every=20))
    assert str(failed.value).endswith("No checkpoint was written yet.")


def test_proposals_that_are_not_finite_are_reported_as_divergence(cfg, tmp_path):
    training = new_training(cfg)
    training.model.forward = lambda samples: (_ for _ in ()).throw(FloatingPointError("proposals."))
    with pytest.raises(RunFailed, match=r"diverged at step 0: proposals\.\nTry a smaller"):
        Run(tmp_path, training)(PLAN)


def test_divergence_while_computing_precise_statistics_is_reported(cfg, tmp_path):
    training = new_training(cfg, precise_bn=3)
    training.model.forward = lambda samples: (_ for _ in ()).throw(FloatingPointError("proposals"))
    run = Run(tmp_path, training)
    run.state.step = 12  # training is complete
    with pytest.raises(RunFailed, match="diverged at step 12: proposals"):
        run(PLAN)
    assert run.saved == []


class Spoiled(Toy):
    """Has a finite loss but a NaN gradient in the sixth step."""

    calls = 0

    def forward(self, samples):
        losses = super().forward(samples)
        self.calls += self.training
        if self.calls == 6:
            losses["loss_cls"] = losses["loss_cls"] + (self.head.weight.sum() * 0).sqrt()
        return losses


@pytest.mark.parametrize(
    "plan",
    [Plan(steps=12, row_every=20, save_every=1), Plan(steps=6, row_every=20, save_every=5)],
    ids=["a checkpoint is due", "the last step"],
)
def test_weights_that_are_not_finite_are_not_saved(cfg, tmp_path, plan):
    run = Run(tmp_path, spoiled_by(Spoiled, cfg))
    with pytest.raises(RunFailed, match=r"diverged at step 6: .*head\.weight"):
        run(plan)
    saved = read_checkpoint(run.checkpoint.path)
    assert saved["iteration"] == saved["loop"]["step"] == 5
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_the_plan_follows_the_yaml(tmp_path):
    words = ["SOLVER.MAX_ITER", "90", "SOLVER.STEPS", "(60,)", "TEST.EVAL_PERIOD", "30"]
    plan = plan_of(config(tmp_path, *words), device=CPU, seed=4)
    assert plan == Plan(
        steps=90, row_every=20, save_every=5000, evaluate_every=30, read_every=1, seed=4
    )


def test_predictions_that_are_not_finite_give_advice(cfg, tmp_path):
    class Looking(Run):
        def evaluate(self, iteration):
            raise NotFinite("scores for image 3 are not finite numbers.\nLook at the pixels.")

    with pytest.raises(RunFailed, match=r"step 5: scores .* numbers\.\nTry a smaller SOLVER"):
        Looking(tmp_path, new_training(cfg))(PLAN)


def test_out_of_memory_is_reported_with_advice():
    with pytest.raises(RunFailed, match="evaluating a single image"), memory_advice(TESTING_ADVICE):
        torch.empty(2**60, dtype=torch.uint8)


def test_the_memory_advice_lists_what_can_still_be_lowered(tmp_path):
    cfg = config(tmp_path, "SOLVER.IMS_PER_BATCH", "16", "SOLVER.BASE_LR", "0.02")
    whole = training_advice(cfg, MemoryNeeds(16, 1, False))
    assert "training on 16 images at a time" in whole
    assert "--accumulate 2 splits each batch into 2 parts" in whole
    assert "--amp bf16" in whole
    assert "SOLVER.IMS_PER_BATCH 8 SOLVER.BASE_LR 0.01 " in whole
    assert "INPUT.MIN_SIZE_TRAIN" in whole
    parts = training_advice(cfg, MemoryNeeds(6, 3, True))
    assert "training on 2 images at a time" in parts
    assert "--accumulate 6 splits" in parts
    assert "--amp" not in parts
    one = training_advice(cfg, MemoryNeeds(1, 1, False))
    assert "--accumulate" not in one
    assert "IMS_PER_BATCH" not in one


@pytest.mark.parametrize(("then", "now"), [("cuda", "cpu"), ("cpu", "cuda"), ("cpu", "cpu")])
def test_continuing_on_another_type_of_device_gives_a_warning(cfg, tmp_path, then, now):
    about = {"data": {}, "engine": "torchvision"}
    training, state = new_training(cfg), State()
    checkpoint_of(tmp_path / "checkpoint.pth", about | {"device": then}).save(training, state)
    job = new_job(tmp_path, resumed=True)
    checkpoint = checkpoint_of(tmp_path / "checkpoint.pth", about | {"device": now})
    resume(training, state, checkpoint, job, about | {"device": now})
    warnings = job.record.content["warnings"]
    expected = f"started on {then} and continues on {now}"
    assert len([w for w in warnings if expected in w]) == len(warnings) == (then != now)


def test_other_files_are_rejected(tmp_path):
    path = tmp_path / "other.pth"
    save_checkpoint(path, {"online": {}})
    with pytest.raises(UserError, match="is not a checkpoint of transfer/detection.py"):
        read_checkpoint(path)
    save_checkpoint(path, {"kind": KIND, "schema": 7})
    with pytest.raises(UserError, match="has checkpoint schema 7"):
        read_checkpoint(path)
    with pytest.raises(UserError, match="gone.pth"):
        read_checkpoint(tmp_path / "gone.pth")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="other.pth"):
        read_checkpoint(path)


def test_on_a_gpu_the_losses_are_read_once_per_row(tmp_path):
    """Each read waits for the GPU."""
    assert plan_of(config(tmp_path), device=CPU, seed=0).read_every == 1
    on_gpu = plan_of(config(tmp_path), device=torch.device("cuda"), seed=0)
    assert on_gpu.read_every == on_gpu.row_every > 1
