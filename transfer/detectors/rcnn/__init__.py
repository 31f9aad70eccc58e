"""Faster and Mask R-CNN of torchvision's operators: Detectron2's networks, bit for bit on the CPU.

Read in the order of an image: resnet, pyramid, proposals (with boxes and matching), heads (with
regions, box_head and mask_head), model; then weights.
"""

from transfer.detectors.rcnn.model import RCNN, build_model
from transfer.detectors.rcnn.regions import Detections

__all__ = ["RCNN", "Detections", "build_model"]
