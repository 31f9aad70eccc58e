"""Faster, Mask and Keypoint R-CNN from torchvision's operators, on the CPU bit for bit Detectron2's.

In reading order: backbone, boxes, proposals, regions, branches, keypoint_branch, roi_heads, model;
then weights.
"""

from transfer.detectors.rcnn.model import RCNN, build_model
from transfer.detectors.rcnn.regions import Detections

__all__ = ["RCNN", "Detections", "build_model"]
