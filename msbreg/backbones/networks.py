"""Build any backbone from its spec: a ResNet, a vision transformer, or a model of timm."""

import torch

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import BackboneSpec
from msbreg.backbones.vit_architectures import TIMM, is_resnet


def build_network(
    spec: BackboneSpec, *, seed: int | None = None, initialize: bool = True
) -> Backbone:
    """Build a randomly initialized backbone; with a seed, the weights are reproducible.

    Args:
        initialize: False may leave the values of all tensors undefined, to be loaded.

    Raises:
        UserError: timm has no model of this name.
    """
    if is_resnet(spec.arch):
        return build_backbone(spec, seed=seed, initialize=initialize)
    if seed is None:
        return _build(spec)
    # Initializers use the global generator; its state is restored.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(spec)


def _build(spec: BackboneSpec) -> Backbone:
    if spec.arch.startswith(TIMM):
        from msbreg.backbones.timm_model import TimmModel  # imports all of timm's models

        return TimmModel(spec.arch)
    from msbreg.backbones.vit import VisionTransformer  # imports timm

    return VisionTransformer(spec)


def spec_of_name(name: str, image_size: int = 0) -> BackboneSpec:
    """The spec of an architecture with its usual input.

    Args:
        image_size: size in pixels of the images used in pre-training; 0 if unknown. The image size of
            ``timm/NAME`` is always timm's.

    Raises:
        UserError: the name is unknown.
    """
    if not name.startswith(TIMM):
        return BackboneSpec(name, image_size=image_size)
    BackboneSpec(name)  # checks the form of the name
    from msbreg.backbones.timm_model import timm_spec

    return timm_spec(name)
