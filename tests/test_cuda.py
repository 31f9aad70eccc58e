"""On a real GPU: training steps, resuming, DDP, bf16 and kNN. Run them with ``pytest -m cuda``."""

import copy
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import msbreg
from msbreg.checkpoints.read import read_file
from msbreg.neighbors import nearest
from msbreg.run import distributed
from msbreg.run.progress import Progress
from msbreg.run.record import read_record
from msbreg.train.loop import Plan, Trainable, train
from msbreg.train.state import Checkpoint, State
from pretrain.methods import build_method
from pretrain.recipe import AugmentSettings, OptimizerSettings
from pretrain.training import PreTraining
from pretrain.view_batches import ViewBatch
from tests.fake_cuda import devices
from tests.pretrain.methods import small_methods
from tests.transfer.detectors import cases
from tests.transfer.detectors.toys import fit, new_job
from transfer import knn
from transfer.detectors.rcnn import build_model
from transfer.frozen.head_training import CachedFeatures, HeadPlan, HeadTraining, cached_batches
from transfer.frozen.heads import Head, Heads

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU on this machine"),
]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
STEPS = 4


@pytest.fixture(autouse=True)
def float32_throughout():
    """Convolutions and products without TF32, so that a GPU can be compared with a CPU."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)


def pre_training(device: torch.device, method: str = "msbreg", precision: str = "fp32"):
    config = small_methods.settings(
        method,
        views=3,
        precision=precision,
        head_norm="ln",
        augment=AugmentSettings(size=32),
        optimizer=OptimizerSettings(),
    )
    made = build_method(config)
    made.allocate(small_methods.IMAGES)
    made.to(device, synchronize=False)
    made.prepare(itertools.islice(views(), small_methods.EPOCH), lambda rows: rows)
    return PreTraining(made, config, device, steps=STEPS, epoch=small_methods.EPOCH)


def views(first: int = 0) -> Iterator[ViewBatch]:
    """Batches of 3 views of 8 images of 32 pixels; a function of their number."""
    config = small_methods.settings("simclr", views=3, augment=AugmentSettings(size=32))
    for step in range(first, STEPS):
        yield small_methods.batch(config, step)


def trained(training: Trainable, batches: Iterator, folder: Path) -> State:
    folder.mkdir(exist_ok=True)
    return fit(training, batches, Plan(steps=STEPS, row_every=2, read_every=2), folder)


def weights(module: nn.Module) -> Tensor:
    """All parameters in one row on the CPU."""
    return torch.cat([parameter.detach().cpu().flatten() for parameter in module.parameters()])


def assert_moved_alike(start: Tensor, one: Tensor, other: Tensor, tolerance: float) -> None:
    """Two trainings from the same weights went the same way, up to a share of the way."""
    way = (one - start).norm()
    assert way > 0
    assert (one - other).norm() <= tolerance * way


@pytest.mark.parametrize("method", small_methods.ALL)
def test_a_step_of_pre_training_has_the_loss_of_the_cpu(method):
    terms = {}
    for device in (GPU, CPU):
        training = pre_training(device, method)
        training.train_mode()
        sums: dict[str, float] = {}
        for loss in training.losses(training.model, next(views()), 0):
            assert devices(loss.total, *loss.terms.values()) == {device.type}
            loss.total.backward()
            for name, value in loss.terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        terms[device.type] = sums
    assert terms["cuda"] == pytest.approx(terms["cpu"], rel=1e-3)


@pytest.mark.parametrize("method", small_methods.ALL)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pre_training_runs_and_its_weights_stay_float32_and_finite(tmp_path, method, precision):
    training = pre_training(GPU, method, precision)
    start = weights(training.model)
    state = trained(training, views(), tmp_path)
    assert [row["step"] for row in state.curve] == [2, 4]
    assert {parameter.dtype for parameter in training.model.parameters()} == {torch.float32}
    end = weights(training.model)
    assert end.isfinite().all()
    assert not torch.equal(end, start)


@pytest.mark.parametrize("method", small_methods.ALL)
def test_a_step_of_pre_training_does_not_wait_for_the_gpu(method):
    """Except for W-MSE and DBN, whose decompositions report a failure to the CPU."""
    training = pre_training(GPU, method)
    batches = list(views())
    pinned = [
        ViewBatch([view.pin_memory() for view in batch.views], batch.images) for batch in batches
    ]
    training.train_mode()
    for step in range(2):  # the first allocates memory, and DeepCluster-v2 clusters in it
        torch.cuda.set_sync_debug_mode("error" if step and method not in ("wmse", "dbn") else 0)
        try:
            for loss in training.losses(training.model, pinned[step], step):
                loss.total.backward()
            training.before_update()
            training.optimizer.step()
            training.after_step(step)
        finally:
            torch.cuda.set_sync_debug_mode(0)
    assert weights(training.model).isfinite().all()


@pytest.mark.parametrize("method", ["moco_v2", "swav", "deepcluster_v2", "dino", "msbreg"])
def test_a_resumed_training_goes_the_way_of_an_uninterrupted_one(tmp_path, method):
    whole = pre_training(GPU, method)
    start = weights(whole.model)
    trained(whole, views(), tmp_path / "whole")

    half = pre_training(GPU, method)
    (tmp_path / "half").mkdir()
    fit(half, views(), Plan(steps=2, row_every=2), tmp_path / "half")
    rest, state = pre_training(GPU, method), State()
    checkpoint = Checkpoint(tmp_path / "half" / "checkpoint.pth", lambda step: {})
    assert checkpoint.restore(rest, state, read_file(checkpoint.path).content) is None
    assert state.step == 2
    with Progress("training", STEPS, first=2) as progress:
        train(
            rest,
            views(first=2),
            Plan(steps=STEPS, row_every=2),
            state,
            checkpoint,
            job=new_job(tmp_path / "half", resumed=True),
            progress=progress,
        )
    assert [row["step"] for row in state.curve] == [2, 4]
    # cuDNN adds gradients up in an order that may change from run to run.
    assert_moved_alike(start, weights(whole.model), weights(rest.model), 1e-2)


@pytest.fixture
def group_of_one(monkeypatch):
    """A process group of this process alone: NCCL for tensors, gloo for messages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    distributed.join(GPU)
    yield
    distributed.stop()


def test_ddp_on_one_gpu_goes_the_way_of_no_group(tmp_path, request):
    alone = pre_training(GPU)
    start = weights(alone.model)
    trained(alone, views(), tmp_path / "alone")
    request.getfixturevalue("group_of_one")
    grouped = pre_training(GPU)
    assert isinstance(
        distributed.data_parallel(copy.deepcopy(grouped.model)), nn.parallel.DistributedDataParallel
    )
    trained(grouped, views(), tmp_path / "grouped")
    assert_moved_alike(start, weights(alone.model), weights(grouped.model), 1e-2)


@pytest.mark.parametrize("case", ["c4-extra-norm", "fpn-r18-mask"])
def test_a_step_of_a_detector_gives_finite_gradients_on_the_gpu(case):
    config = cases.config_of(case, "MODEL.DEVICE", "cuda")
    torch.manual_seed(0)
    model = build_model(config).to(GPU).train()
    losses = model(cases.batch_of(config))
    assert devices(*losses.values()) == {"cuda"}
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert devices(*gradients) == {"cuda"}
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_linear_heads_end_where_those_of_the_cpu_end(tmp_path):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(32, 16, generator=generator)
    labels = torch.randint(0, 5, (32,), generator=generator)
    ends = {}
    for device in (GPU, CPU):
        start = torch.Generator().manual_seed(0)
        training = HeadTraining(
            32,
            Heads(16, 5, [Head(0.1, norm="affine"), Head(1.0)], start),
            HeadPlan(epochs=2, batch_size=16),
            features_of=CachedFeatures(features.numpy(), device),
            batches_of=cached_batches(labels),
            device=device,
        )
        trained(training, training.batches(0), tmp_path / device.type)
        heads, losses = training.result()
        assert devices(heads.weight, heads.bias, losses) == {device.type}
        ends[device.type] = heads.weight.detach().cpu()
    torch.testing.assert_close(ends["cuda"], ends["cpu"], rtol=1e-3, atol=1e-5)


def test_features_and_neighbors_are_those_of_the_cpu(make_folder):
    folder = make_folder(train=6) / "train"
    x = {}
    for device in ("cuda", "cpu"):
        backbone, spec = msbreg.random_backbone("resnet18-tiny", seed=0, image_size=16)
        x[device] = msbreg.extract_features(backbone, spec, folder, device=device, batch_size=5)
    np.testing.assert_allclose(x["cuda"], x["cpu"], rtol=1e-3, atol=1e-4)
    found = {device: nearest(rows, rows, 3)[0] for device, rows in x.items()}
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_gpu_finds_the_neighbors_of_the_cpu_bit_for_bit(metric, precision):
    draw = np.random.default_rng(0)
    bank = np.maximum(draw.standard_normal((5000, 64), dtype=np.float32), 0)
    bank[2000:2100] = bank[:100]  # ties
    queries = np.maximum(draw.standard_normal((70, 64), dtype=np.float32), 0)
    if metric == "euclidean":
        bank[4000:] = bank[4000] + 1e-6 * bank[4000:]  # too close for a shortlist
        queries[:5] = bank[4000]
    found = nearest(queries, bank, 20, metric=metric, device=GPU, precision=precision)
    expected = nearest(queries, bank, 20, metric=metric, precision="float32")
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_knn_runs_on_the_gpu_and_its_record_says_so(tmp_path, make_folder):
    results = knn.run(
        knn.Config(
            checkpoint="random",
            arch="resnet18-tiny",
            image_size=16,
            data=str(make_folder(train=8, val=4)),
            output=tmp_path / "run",
            cache=tmp_path / "cache",
            device="cuda",
            workers=1,
            k=(3,),
        )
    )
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["device"] == "cuda:0"
    assert 0 <= results["top1_3nn"] <= 100
