"""Layers that the networks share: cheap on a CPU, the same functions as torch's own.

Beside the convolutions a small network spends most of its step on Dropout's random numbers, pooling and
ReLU, so Dropout draws bytes instead of floats and pooling comes before ReLU, to which it leaves a quarter of the work.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

RANDOM_VALUES = 256  # of one byte


class Dropout(nn.Dropout):
    """torch's Dropout, its mask drawn as random bytes on a CPU (64 bits at a time from torch's global generator).

    A value is kept where its byte is below round(256 (1 - p)), at least 1, and scaled by 256 over that number: the
    keep probability differs from 1 - p by at most 1/512 and the expectation is exact; 0.25 and 0.5 are met exactly.
    Other devices draw fast enough: they use torch's own.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return functional.dropout(values, self.p, True)
        kept = max(1, round(RANDOM_VALUES * (1 - self.p)))
        words = torch.empty((values.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        mask = words.view(torch.uint8)[: values.numel()] < kept
        # In the order in which the values lie in memory: in another order the product takes several times as long.
        if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
            n, c, h, w = values.shape
            mask = mask.view(n, h, w, c).permute(0, 3, 1, 2)
        else:
            mask = mask.view(values.shape)
        return values * (mask * (RANDOM_VALUES / kept)).to(values.dtype)


def scaled(channels: int, width: float) -> int:
    """Channels at this width: a multiple of 8, what a vector register holds, and at least 8."""
    return max(8, 8 * round(channels * width / 8))


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, BatchNorm, max-pool, ReLU, Dropout: those that are asked for, in this order.

    (n, inputs, h, w) -> (n, outputs, h, w) or, pooled, (n, outputs, h // 2, w // 2). Max-pool before ReLU is the same
    function as after it, since ReLU never changes the order of two values.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: bool, pool: bool = False, dropout: float = 0.0) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=not norm)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if norm:
            layers["norm"] = nn.BatchNorm2d(outputs)
        if pool:
            layers["pool"] = nn.MaxPool2d(2)
        layers["relu"] = nn.ReLU(inplace=True)
        if dropout:
            layers["dropout"] = Dropout(dropout)
        super().__init__(layers)


def fc_block(inputs: int, outputs: int, *, norm: bool, dropout: float = 0.0) -> nn.Sequential:
    """Fully connected layer, BatchNorm, ReLU, Dropout: those that are asked for.  (n, inputs) -> (n, outputs)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(inputs, outputs, bias=not norm))
    if norm:
        layers["norm"] = nn.BatchNorm1d(outputs)
    layers["relu"] = nn.ReLU(inplace=True)
    if dropout:
        layers["dropout"] = Dropout(dropout)
    return nn.Sequential(layers)


class GlobalAverage(nn.Module):
    """Mean over all positions: the classifier's size, then, does not depend on the image's."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))  # (n, c, h, w) -> (n, c)
