"""Copies of tensors from the CPU to the device of a model."""

import torch
from torch import Tensor

PINNED = True  # False: the program waits for each copy, and for all work that the GPU was given before


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. A copy to a CUDA device starts from page-locked memory and is not waited for.

    The values are the same. Without a copy, as on a CPU, it is the same tensor. Later work of the GPU waits for the
    copy, and torch keeps the page-locked memory until it has ended.
    """
    if PINNED and tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
