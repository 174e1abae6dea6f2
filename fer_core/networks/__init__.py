"""Networks by name: each is one file here with ``build(params, image_size, channels, classes) -> nn.Module``."""

from __future__ import annotations

import importlib
from typing import cast

from torch import nn

from fer_core.schema import ParameterError, Params, nearest
from fer_core.schema import network_names as names

__all__ = ["build", "initialise", "names"]

SMALLEST_SIDE = 8  # px; three times halved it leaves one position
SMALL_STD = 0.01


def build(params: Params, image_size: tuple[int, int], channels: int, classes: int) -> nn.Module:
    """The network ``params.network``, initialised as ``params.initialisation`` says from torch's global generator.

    Parameters
    ----------
    image_size : (height, width) in pixels, each at least 8
    channels : 1 (grey) or 3 (colour)
    classes : at least 2

    Returns
    -------
    nn.Module : float (n, channels, height, width) -> logits (n, classes)

    Raises
    ------
    ParameterError : unknown name, or images that the networks cannot take.
    """
    if params.network not in names():
        raise ParameterError(
            f"network is '{params.network}', expected one of {', '.join(names())}{nearest(params.network, names())}"
        )
    if min(image_size) < SMALLEST_SIDE or channels not in (1, 3) or classes < 2:
        raise ParameterError(
            f"a network expects at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, 1 or 3 channels and 2 classes, "
            f"got {image_size[0]} x {image_size[1]}, {channels} and {classes}: use other images."
        )
    module = importlib.import_module(f"{__name__}.{params.network}")
    network = cast(nn.Module, module.build(params, image_size, channels, classes))
    initialise(network, params.initialisation)
    return network


def initialise(network: nn.Module, kind: str) -> None:
    """Set the weights of convolutions and fully connected layers anew; biases become 0 unless ``kind`` is default.

    default: torch's own (uniform, He with a = sqrt 5); kaiming: normal, for ReLU (arXiv:1502.01852);
    small_normal: normal with standard deviation 0.01.
    """
    if kind == "default":
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if kind == "kaiming":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif kind == "small_normal":
                nn.init.normal_(layer.weight, std=SMALL_STD)
            else:
                raise ParameterError(f"initialisation {kind!r}: expected default, kaiming or small_normal.")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
