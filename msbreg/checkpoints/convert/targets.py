"""The toolboxes that a backbone can be written for.

To add a toolbox: a module with one ``Target``, and a line in ``TARGETS``.
"""

from msbreg.checkpoints.convert.target import Target
from msbreg.checkpoints.convert.to_detectron2 import DETECTRON2
from msbreg.checkpoints.convert.to_huggingface import HUGGINGFACE
from msbreg.checkpoints.convert.to_mmseg import MMSEG
from msbreg.checkpoints.convert.to_safetensors import SAFETENSORS
from msbreg.checkpoints.convert.to_torchvision import TIMM, TORCHVISION

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (DETECTRON2, TORCHVISION, TIMM, MMSEG, HUGGINGFACE, SAFETENSORS)
}
