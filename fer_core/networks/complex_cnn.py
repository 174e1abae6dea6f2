"""ComplexCNN: seven conv-BatchNorm-ReLU blocks in four sizes, pooling and Dropout (04_complex_cnn).

24 M multiply-adds and 0.44 M parameters on 48 x 48 grey at width 1: what a study of some fifty
trainings can afford on two cores. Channels double where the image halves, so that the stages cost about the same; at
full size there is one thin block only, because there BatchNorm, pooling and ReLU, bound by memory, would cost more
than the convolution.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fer_core.networks.layers import ConvBlock, fc_block, scaled
from fer_core.schema import Params

STAGES = ((16,), (32, 32), (64, 64), (128, 128))  # a max-pool closes each, where there are 4 pixels to halve
HIDDEN = 128


def build(params: Params, image_size: tuple[int, int], channels: int, classes: int) -> nn.Module:
    """Float (n, channels, h, w) -> logits (n, classes); BatchNorm always; dropout, dropout_fc and width apply.

    `dropout` follows each stage, `dropout_fc` the fully connected layer.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, (height, width) = channels, image_size
    for stage, bases in enumerate(STAGES, 1):
        halved = min(height, width) >= 4
        for place, base in enumerate(bases, 1):
            outputs, closes = scaled(base, params.width), place == len(bases)
            layers[f"block{stage}_{place}"] = ConvBlock(
                inputs,
                outputs,
                norm=True,
                pool=closes and halved,
                dropout=params.dropout if closes else 0.0,
            )
            inputs = outputs
        if halved:
            height, width = height // 2, width // 2
    hidden = scaled(HIDDEN, params.width)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = fc_block(inputs * height * width, hidden, norm=True, dropout=params.dropout_fc)
    layers["classifier"] = nn.Linear(hidden, classes)
    return nn.Sequential(layers)
