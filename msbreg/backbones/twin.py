"""The untrained twin of a network: same architecture and input, but randomly initialized weights."""

import hashlib

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.networks import build_network, spec_of_name
from msbreg.backbones.spec import BackboneSpec, Provenance


def random_backbone(
    spec: BackboneSpec | str, *, seed: int, image_size: int = 0
) -> tuple[Backbone, Provenance]:
    """The untrained twin of a network, initialized with ``seed``, in eval mode.

    Args:
        spec: spec of the network to compare with: architecture, normalization, channel order, stride and
            image size. A name means that architecture with ImageNet's normalization, stride 2 in the 3x3
            convolution, and ``image_size``; ``timm/NAME`` means the input that timm states.

    Raises:
        UserError: the name is unknown.

    >>> _, provenance = random_backbone(BackboneSpec("resnet18-tiny", image_size=32), seed=0)
    >>> provenance.source, provenance.image_size
    ('random', 32)
    """
    if isinstance(spec, str):
        spec = spec_of_name(spec, image_size)
    backbone = build_network(spec, seed=seed)
    digest = hashlib.sha256()
    for value in backbone.state_dict().values():
        digest.update(value.numpy().tobytes())
    provenance = Provenance(
        source="random",
        family="random",
        encoder="initialization",
        spec=spec,
        sha256=digest.hexdigest(),
        tensors=len(backbone.state_dict()),
        details={"seed": seed},
        warnings=("an untrained network, as requested",),
    )
    return backbone.eval(), provenance
