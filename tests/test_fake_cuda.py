"""Test CUDA code without a GPU: on fake CUDA tensors, a tensor left on the CPU raises an error."""

import numpy as np
import pytest
import torch

from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.resnet import build_backbone, embed, normalize
from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.neighbors.shortlist import Float32Scores
from msbreg.neighbors.vectors import Vectors
from pretrain.methods import build_method
from pretrain.training import PreTraining
from pretrain.view_batches import ViewBatch
from tests.fake_cuda import CUDA, devices, fake_cuda, on_fake_cuda
from tests.pretrain.methods import small_methods
from tests.transfer.detectors.cases import CASES, SMALL
from transfer.detectors.config.yaml_file import default_config
from transfer.detectors.rcnn import build_model
from transfer.frozen.head_optimizer import HeadOptimizer
from transfer.frozen.head_training import HeadBatch, HeadPlan, HeadTraining
from transfer.frozen.heads import Head, Heads, Norm
from transfer.segmenters.crops import Batch
from transfer.segmenters.fcn import build_fcn
from transfer.segmenters.segmentation_config import Config as SegmentationConfig
from transfer.segmenters.segmentation_config import NetworkOptions
from transfer.segmenters.segmenter_training import SegmenterTraining


def test_fake_cuda_detects_a_tensor_on_the_wrong_device():
    with fake_cuda():
        module = on_fake_cuda(torch.nn.Linear(4, 2))
        with pytest.raises(RuntimeError, match="device"):
            module(torch.zeros(3, 4))


@pytest.mark.parametrize("arch", ["resnet18-narrow", "resnet50"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_features_are_computed_on_the_gpu_and_returned_on_the_cpu(arch, channels):
    spec = BackboneSpec(arch, Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), channels))
    backbone = build_backbone(spec).eval()
    network = FrozenBackbone(backbone, spec, torch.device("cpu"))
    with fake_cuda(), torch.no_grad():
        on_fake_cuda(backbone)
        images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        pools = embed(backbone, normalize(images, CUDA, spec.normalization))
        network.network, network.device = on_fake_cuda(network.network), CUDA
        features = network(images)
    assert devices(pools) == {"cuda"}
    assert devices(features) == {"cpu"}
    assert (features.shape, features.dtype) == ((2, backbone.channels["c5"]), torch.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_float32_scores_of_the_neighbor_search_stay_on_the_gpu(metric):
    rows = np.random.default_rng(0).standard_normal((40, 8), dtype=np.float32)
    vectors = Vectors(rows, "rows", torch.device("cpu"), zeros=False)
    with fake_cuda():
        vectors.device, vectors._all = CUDA, torch.empty(40, 8, device=CUDA)
        scores = Float32Scores(vectors, vectors, np.arange(10), metric)
        scores.load(0, 40)
        found = scores.scores(slice(0, 10))
    assert devices(found, scores.margin) == {"cuda"}
    assert (found.shape, found.dtype) == ((10, 40), torch.float32)


@pytest.mark.parametrize("rule", ["sgd", "adam", "lars"])
def test_a_step_of_the_linear_heads_stays_on_the_gpu(rule):
    norms: list[Norm] = ["none", "no_affine", "affine"]
    generator = torch.Generator().manual_seed(0)
    training = HeadTraining(
        6,
        Heads(4, 3, [Head(0.1, 1e-4, norm) for norm in norms], generator),
        HeadPlan(epochs=1, batch_size=6),
        features_of=lambda features: features,
        batches_of=lambda shares: iter(()),
        device=torch.device("cpu"),
    )
    with fake_cuda(), torch.no_grad():
        heads = on_fake_cuda(training.model)
        training.device = CUDA
        training.loss_sums = torch.empty(3, device=CUDA)
        training.sound = torch.empty(3, dtype=torch.bool, device=CUDA)
        training.optimizer = HeadOptimizer(
            [heads.weight, heads.bias],
            [heads.scale, heads.shift],
            [0.1, 0.2, 0.3],
            [1e-4, 0.0, 0.0],
            rule=rule,
        )
        labels = torch.empty(6, dtype=torch.int64)
        batch = HeadBatch(torch.empty(6, 4, device=CUDA), labels, 6)
        (loss,) = training.losses(heads, batch, 0)
        for parameter in heads.parameters():
            parameter.grad = torch.empty_like(parameter)
        training.optimizer.step()
        training.after_step(0)
        result, final = training.result()
        logits = result.logits(torch.empty(2, 4, device=CUDA))
    assert devices(loss.total, *loss.terms.values(), final, logits) == {"cuda"}


# Without a GPU, PyTorch warns that it disables autocast; these tests check devices, not types.
@pytest.mark.filterwarnings("ignore:CUDA is not available.*autocast:UserWarning")
@pytest.mark.filterwarnings("ignore:User provided device_type of .cuda.:UserWarning")
@pytest.mark.parametrize("method", small_methods.ALL)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_of_pre_training_stays_on_the_gpu_and_reads_nothing_from_it(method, precision):
    """Reading a value, as ``item()`` or a mask as index do, raises an error: fake tensors have none."""
    terms = ("uniformity",) if method == "msbreg" else ("singular_value", "brownian", "uniformity")
    config = small_methods.settings(method, precision=precision, add=terms)
    made = build_method(config)
    made.allocate(small_methods.IMAGES)
    training = PreTraining(made, config, CUDA, steps=6, epoch=2)
    batch = small_methods.batch(config, 1)
    with fake_cuda(), torch.no_grad():
        for network in made.networks().values():
            on_fake_cuda(network)
        made.memory = {
            name: torch.empty(value.shape, dtype=value.dtype, device=CUDA)
            for name, value in made.memory.items()
        }
        views = [torch.empty(view.shape, dtype=torch.uint8) for view in batch.views]
        images = torch.empty(len(batch.images), dtype=torch.int64)
        # Step 1: DeepCluster-v2 reads the memory once per epoch, at its first step.
        parts = list(training.losses(made.trained, ViewBatch(views, images), 1))
        for parameter in made.trained.parameters():
            parameter.grad = torch.empty_like(parameter)
        training.before_update()
        training.after_step(1)
    assert len(parts) == training.parts
    for part in parts:
        assert devices(part.total, *part.terms.values()) == {"cuda"}
    assert not made.memory or devices(*made.memory.values()) == {"cuda"}


@pytest.mark.parametrize("case", ["c4-extra-norm", "fpn-r18-mask"])
def test_detector_features_and_proposals_are_on_the_gpu(case):
    config = default_config()
    config.merge_from_list([str(word) for word in (*SMALL, *CASES[case])])
    model = build_model(config).eval()
    with fake_cuda(), torch.no_grad():
        on_fake_cuda(model)
        pixels = torch.zeros(1, 3, 64, 96, device=CUDA)
        features = model.backbone(pixels)
        names = config.MODEL.RPN.IN_FEATURES
        found = [model.proposal_generator.rpn_head(features[name]) for name in names]
    assert devices(*features.values(), *(tensor for pair in found for tensor in pair)) == {"cuda"}


@pytest.mark.filterwarnings("ignore:CUDA is not available.*autocast:UserWarning")
@pytest.mark.filterwarnings("ignore:User provided device_type of .cuda.:UserWarning")
@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_segmentation_losses_and_logits_are_on_the_gpu(amp):
    options = NetworkOptions(channels=8, auxiliary=0.4)
    spec = BackboneSpec("resnet18-narrow", Normalization((0.5,) * 3, (0.2,) * 3, "BGR"))
    network = build_fcn(spec, 3, options)
    config = SegmentationConfig(network=options, amp=amp)
    training = SegmenterTraining(network, config, 0.1, spec.normalization, CUDA)
    training.train_mode()
    with fake_cuda(), torch.no_grad():
        on_fake_cuda(network)
        pixels = torch.empty(2, 3, 48, 48, dtype=torch.uint8)
        labels = torch.empty(2, 48, 48, dtype=torch.uint8)
        sizes = torch.empty(2, 2, dtype=torch.int64)
        (loss,) = training.losses(network, Batch(pixels, labels, sizes), 0)
        network.eval()
        logits = network(torch.empty(1, 3, 48, 48, device=CUDA))
    assert len(loss.terms) == 2
    assert devices(loss.total, *loss.terms.values(), logits) == {"cuda"}
