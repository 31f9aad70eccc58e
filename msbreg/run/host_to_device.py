"""Copies from the CPU to a device that do not wait for the device's earlier work."""

import torch
from torch import Tensor


def to_device(
    values: Tensor,  # (...), usually on the CPU
    device: torch.device,
) -> Tensor:  # (...)
    """Copy to the device. A GPU copies from pinned memory, so that the CPU can continue at once.

    A plain ``values.to(device)`` makes the CPU wait until the GPU has finished everything before the copy.
    """
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    pinned = torch.empty_like(values, pin_memory=True, memory_format=torch.contiguous_format)
    return pinned.copy_(values).to(device, non_blocking=True)
