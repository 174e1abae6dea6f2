"""What a network is made of, layer by layer, and where in an image it looks (Grad-CAM)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    import pandas as pd


def layer_table(network: nn.Module, image_size: tuple[int, int], channels: int) -> pd.DataFrame:
    """Layers in the order in which an image passes them.

    Returns
    -------
    DataFrame : layer, output_shape (without batch), parameters, multiply_adds (for one image; convolutions and fully
        connected layers, the others' being negligible)
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []

    def record(name: str, layer: nn.Module, output: Tensor) -> None:
        rows.append(
            {
                "layer": f"{name} ({type(layer).__name__})",
                "output_shape": " × ".join(str(side) for side in output.shape[1:]),
                "parameters": sum(parameter.numel() for parameter in layer.parameters()),
                "multiply_adds": _multiply_adds(layer, output),
            }
        )

    leaves = {name: layer for name, layer in network.named_modules() if not any(layer.children())}
    with _evaluating(network), torch.no_grad(), _watching(leaves, record):
        network(torch.zeros(1, channels, *image_size, device=_device(network)))
    return pd.DataFrame(rows, columns=["layer", "output_shape", "parameters", "multiply_adds"])


def multiply_adds(network: nn.Module, image_size: tuple[int, int], channels: int) -> int:
    """Multiplications, each with its addition, that one image costs in convolutions and fully connected layers."""
    return int(layer_table(network, image_size, channels)["multiply_adds"].sum())


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Where the evidence for a class lies, by the gradient of its logit at the last feature map.

    The map is the last 4-D output of a module with more than one position, whatever the network.
    Source: arXiv:1610.02391.

    Parameters
    ----------
    images : float (b, c, h, w), normalised as in training
    classes : int64 (b,), the class to explain in each

    Returns
    -------
    Tensor : float32 (b, h, w), 0 to 1 where there is evidence anywhere in the image, else 0

    Raises
    ------
    ValueError : the network has no feature map.
    """
    maps: list[Tensor] = []

    def keep(name: str, layer: nn.Module, output: Tensor) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            maps.append(output)

    inner = {name: module for name, module in network.named_modules() if name}
    with _evaluating(network), torch.enable_grad(), _watching(inner, keep):
        # Through the images every map is in the graph, even if the weights are frozen; a clone may be changed in place.
        logits = network(images.detach().requires_grad_().clone())
    if not maps:
        raise ValueError("Grad-CAM expects a module whose output is (b, c, h, w) with h w > 1; this network has none.")
    score = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, maps[-1])
    importance = gradient.mean((2, 3), keepdim=True)  # (b, c, 1, 1)
    evidence = functional.relu((importance * maps[-1]).sum(1, keepdim=True)).detach().float()  # (b, 1, h', w')
    evidence = functional.interpolate(evidence, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return evidence / evidence.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _multiply_adds(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return layer.weight.numel() * output[0, 0].numel()
    return layer.weight.numel() if isinstance(layer, nn.Linear) else 0


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


@contextmanager
def _watching(modules: dict[str, nn.Module], call: Any) -> Iterator[None]:
    """Call `call(name, module, output)` after each forward pass of these modules."""

    def hook(name: str) -> Any:
        return lambda module, _inputs, output: call(name, module, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
