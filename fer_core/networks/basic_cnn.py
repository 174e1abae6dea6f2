"""The study's small network: three convolutions and a fully connected layer (01_basic_cnn, 02_batch_norm, 03_dropout).

5.9 M multiply-adds and 0.32 M parameters on 48 x 48 grey at width 1.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fer_core.networks.layers import ConvBlock, fc_block, scaled
from fer_core.schema import Params

CHANNELS = (16, 32, 64)
HIDDEN = 128


def build(params: Params, image_size: tuple[int, int], channels: int, classes: int) -> nn.Module:
    """Float (n, channels, h, w) -> logits (n, classes); batch_norm, dropout, dropout_fc and width apply."""
    height, width = image_size
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = channels
    for number, base in enumerate(CHANNELS, 1):
        outputs = scaled(base, params.width)
        layers[f"block{number}"] = ConvBlock(inputs, outputs, norm=params.batch_norm, pool=True, dropout=params.dropout)
        inputs, height, width = outputs, height // 2, width // 2
    hidden = scaled(HIDDEN, params.width)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = fc_block(inputs * height * width, hidden, norm=params.batch_norm, dropout=params.dropout_fc)
    layers["classifier"] = nn.Linear(hidden, classes)
    return nn.Sequential(layers)
