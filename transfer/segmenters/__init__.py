"""Semantic segmentation: networks on a dilated ResNet, their data, training and inference."""
