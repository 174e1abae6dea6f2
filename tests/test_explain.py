"""The layer table counts what a network is; Grad-CAM points at what it looks at."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fer_core import explain, networks
from fer_core.schema import Params


def built(name: str, size: tuple[int, int] = (48, 48), channels: int = 1) -> nn.Module:
    return networks.build(Params(network=name, batch_norm=True, dropout=0.2), size, channels, 7)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize("channels", [1, 3])
def test_layer_table_agrees_with_torchs_own_counts(name: str, channels: int) -> None:
    network = built(name, (24, 32), channels)
    table = explain.layer_table(network, (24, 32), channels)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, channels, 24, 32))
    assert table["multiply_adds"].sum() * 2 == counter.get_total_flops()
    assert table["parameters"].sum() == sum(parameter.numel() for parameter in network.parameters())
    assert explain.multiply_adds(network, (24, 32), channels) == table["multiply_adds"].sum()


def test_layer_table_names_layers_and_shapes_in_order() -> None:
    table = explain.layer_table(built("basic_cnn"), (48, 48), 1)
    assert list(table.columns) == ["layer", "output_shape", "parameters", "multiply_adds"]
    assert list(table.iloc[0]) == ["block1.conv (Conv2d)", "16 × 48 × 48", 144, 331_776]
    assert list(table.iloc[-1]) == ["classifier (Linear)", "7", 903, 896]


@pytest.mark.parametrize("name", networks.names())
def test_explaining_leaves_the_network_as_it_was(name: str) -> None:
    network = built(name).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    explain.layer_table(network, (48, 48), 1)
    explain.grad_cam(network, torch.randn(2, 1, 48, 48), torch.tensor([0, 1]))
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize("size", [(8, 8), (20, 33)])
def test_grad_cam_has_the_images_shape_and_lies_in_0_to_1(name: str, size: tuple[int, int]) -> None:
    network = built(name, size)
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # a loaded network may be frozen
    heat = explain.grad_cam(network, torch.randn(5, 1, *size), torch.arange(5))
    assert heat.shape == (5, *size)
    assert heat.min() >= 0
    assert heat.max() == 1


class BrightHalf(nn.Sequential):
    """Class 0 is the sum over the left half of the picture, class 1 over the right."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2, bias=False))
        halves = torch.zeros(2, 8, 8)
        halves[0, :, :4] = halves[1, :, 4:] = 1
        self[3].weight.data = halves.view(2, 64)


def test_grad_cam_points_at_the_pixels_that_speak_for_the_class() -> None:
    images = torch.zeros(2, 1, 8, 8)
    images[:, :, 2, 2] = 1
    images[0, :, 2, 2] = 3
    heat = explain.grad_cam(BrightHalf(), images, torch.tensor([0, 0]))
    assert heat.flatten(1).argmax(1).tolist() == [2 * 8 + 2] * 2
    assert heat.amax((1, 2)).tolist() == [1, 1]


def test_grad_cam_refuses_a_network_without_a_map() -> None:
    with pytest.raises(ValueError, match="Grad-CAM expects a module"):
        explain.grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), torch.zeros(1, 1, 8, 8), torch.tensor([0]))
