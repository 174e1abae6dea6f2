"""Residual network trained from scratch in 07_beyond: a thin stem and five blocks of two convolutions.

46 M multiply-adds and 0.67 M parameters on 48 x 48 grey at width 1 (channels 16-32-64-64-128-128).
Source: arXiv:1512.03385, with pooling between the stages in place of strides.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from fer_core.networks.layers import ConvBlock, Dropout, GlobalAverage, scaled
from fer_core.schema import Params

STEM = 16
BLOCKS = ((32, True), (64, True), (64, False), (128, True), (128, False))  # channels; image halved before?


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (1 x 1 where the channels change); ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.first = ConvBlock(inputs, outputs, norm=True, dropout=dropout)
        self.second = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.norm(self.second(self.first(maps))) + self.shortcut(maps))


def build(params: Params, image_size: tuple[int, int], channels: int, classes: int) -> nn.Module:
    """Float (n, channels, h, w) -> logits (n, classes); BatchNorm always; dropout, dropout_fc and width apply.

    `dropout` stands between a block's two convolutions, `dropout_fc` before the classifier.
    """
    inputs = scaled(STEM, params.width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=ConvBlock(channels, inputs, norm=True))
    for number, (base, halved) in enumerate(BLOCKS, 1):
        if halved:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
        outputs = scaled(base, params.width)
        layers[f"block{number}"] = ResidualBlock(inputs, outputs, params.dropout)
        inputs = outputs
    layers["average"] = GlobalAverage()
    if params.dropout_fc:
        layers["dropout"] = Dropout(params.dropout_fc)
    layers["classifier"] = nn.Linear(inputs, classes)
    return nn.Sequential(layers)
