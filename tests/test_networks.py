"""Networks by name, their size and options; the fast layers against torch's own; the code on (fake) CUDA tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks.usual_loop import large, plain, usual_epoch
from fer_core import explain, networks
from fer_core.networks.layers import ConvBlock, Dropout
from fer_core.schema import ParameterError, Params, settled


def built(name: str, size: tuple[int, int] = (48, 48), channels: int = 1, classes: int = 7, **params) -> nn.Module:
    return networks.build(Params(network=name, **params), size, channels, classes)


@pytest.mark.parametrize("name", networks.names())
@pytest.mark.parametrize(("size", "channels", "classes"), [((8, 8), 1, 2), ((9, 31), 3, 5), ((48, 48), 1, 7)])
def test_every_network_takes_any_image_and_trains(
    name: str, size: tuple[int, int], channels: int, classes: int
) -> None:
    network = built(name, size, channels, classes, dropout=0.2, dropout_fc=0.2, batch_norm=True)
    logits = network(torch.randn(4, channels, *size))
    assert logits.shape == (4, classes)
    functional.cross_entropy(logits, torch.arange(4) % classes).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("name", "millions"), [("basic_cnn", 5.94), ("complex_cnn", 24.37), ("residual", 46.34)])
def test_multiply_adds_are_as_the_study_states(name: str, millions: float) -> None:
    assert explain.multiply_adds(built(name), (48, 48), 1) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", networks.names())
def test_width_scales_every_layer(name: str) -> None:
    ratio = explain.multiply_adds(built(name, width=2.0), (48, 48), 1) / explain.multiply_adds(built(name), (48, 48), 1)
    assert 3.8 < ratio < 4.1
    assert explain.multiply_adds(built(name, width=0.01), (48, 48), 1) > 0


def kinds(network: nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules()}


def test_basic_cnn_has_batch_norm_and_dropout_only_when_asked() -> None:
    assert not kinds(built("basic_cnn")) & {"BatchNorm2d", "BatchNorm1d", "Dropout"}
    assert "BatchNorm2d" in kinds(built("basic_cnn", batch_norm=True))
    shares = [m.p for m in built("basic_cnn", dropout=0.25, dropout_fc=0.5).modules() if isinstance(m, Dropout)]
    assert shares == [0.25, 0.25, 0.25, 0.5]


def test_complex_cnn_always_has_batch_norm_and_its_dropout_can_be_off() -> None:
    assert "BatchNorm2d" in kinds(built("complex_cnn", batch_norm=False))
    assert "Dropout" not in kinds(built("complex_cnn"))
    shares = [m.p for m in built("complex_cnn", dropout=0.25, dropout_fc=0.5).modules() if isinstance(m, Dropout)]
    assert shares == [0.25] * 4 + [0.5]


@pytest.mark.parametrize("name", networks.names())
def test_what_a_network_settles_itself_changes_nothing_in_it_and_all_else_does(name: str) -> None:
    values = {"width": 0.5, "batch_norm": True, "dropout": 0.3, "dropout_fc": 0.3}
    usual = str(built(name))
    assert {parameter for parameter, v in values.items() if str(built(name, **{parameter: v})) == usual} == settled(
        name
    )


def test_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ParameterError, match="did you mean complex_cnn"):
        built("complx_cnn")


@pytest.mark.parametrize(("size", "channels", "classes"), [((7, 48), 1, 7), ((48, 48), 2, 7), ((48, 48), 1, 1)])
def test_images_that_no_network_can_take_are_refused(size: tuple[int, int], channels: int, classes: int) -> None:
    with pytest.raises(ParameterError, match="a network expects at least 8 x 8 pixels"):
        built("basic_cnn", size, channels, classes)


def test_initialisation_sets_the_spread_of_weights() -> None:
    torch.manual_seed(0)
    spread = {
        kind: built("basic_cnn", initialisation=kind).get_submodule("block3.conv").weight.std().item()
        for kind in ("default", "kaiming", "small_normal")
    }
    fan_in = 32 * 9
    assert spread["kaiming"] == pytest.approx((2 / fan_in) ** 0.5, rel=0.04)
    assert spread["small_normal"] == pytest.approx(0.01, rel=0.04)
    assert spread["default"] == pytest.approx((1 / fan_in / 3) ** 0.5, rel=0.04)
    assert not built("basic_cnn", initialisation="kaiming").get_parameter("block3.conv.bias").any()


def test_same_seed_builds_the_same_network() -> None:
    first, second, other = (seeded(built, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def seeded(build, seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return list(build("basic_cnn").parameters())


@pytest.mark.parametrize("name", [*networks.names(), "large"])
def test_fast_layers_are_the_same_function_as_the_usual_ones(name: str) -> None:
    torch.manual_seed(0)
    fast = large() if name == "large" else built(name, batch_norm=True)
    for module in fast.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    usual = plain(fast)
    assert not any(isinstance(module, ConvBlock | Dropout) for module in usual.modules())
    images = torch.randn(8, 1, 48, 48)
    targets = torch.arange(8) % 7
    functional.cross_entropy(fast(images), targets).backward()
    functional.cross_entropy(usual(images), targets).backward()
    for (name_, a), b in zip(fast.named_parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=lambda text, n=name_: f"{n}: {text}")


@pytest.mark.parametrize("share", [0.25, 0.5, 0.3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    values = torch.ones(16, 32, 24, 24).contiguous(memory_format=layout).requires_grad_()
    dropped = Dropout(share)(values)
    n = values.numel()
    kept = round(256 * (1 - share)) / 256
    assert (dropped == 0).float().mean().item() == pytest.approx(1 - kept, abs=5 * (share / n) ** 0.5)
    assert dropped[dropped > 0].unique().tolist() == pytest.approx([1 / kept])
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())  # what was dropped has no gradient, the rest the same factor
    per_channel = (dropped == 0).float().mean((0, 2, 3))
    assert per_channel.std() < 3 * (share / (n / 32)) ** 0.5


def test_dropout_is_independent_between_values_and_between_calls() -> None:
    torch.manual_seed(0)
    layer, values = Dropout(0.5), torch.ones(1, 2**16)
    first, second = (layer(values)[0] - 1 for _ in range(2))
    for shift in (1, 2, 4, 8, 256):
        assert abs((first[shift:] * first[:-shift]).mean()) < 5 / 2**8
    assert abs((first * second).mean()) < 5 / 2**8


def test_dropout_follows_torchs_generator_and_rests_in_evaluation() -> None:
    layer, values = Dropout(0.5), torch.randn(3, 5, 7, 7)
    masks = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        masks.append(layer(values))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert layer.eval()(values) is values


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # two workers on one core
def test_usual_loop_trains_on_pixel_strings() -> None:
    torch.manual_seed(0)
    network = plain(built("basic_cnn", width=0.1))
    before = [parameter.clone() for parameter in network.parameters()]
    pixels = [" ".join(["7"] * 2304)] * 64
    assert usual_epoch(network, pixels, [0] * 64, 64) > 0
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
