"""The training loop that people write today, for `make bench` to compare the engine with.

Two DataLoader workers parse every item from its pixel string and change it as a PIL image by torchvision's transforms;
torch's own layers in their usual order, float32, default memory layout, default threads, Adam, a loss read every step.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fer_core import networks
from fer_core.networks.layers import ConvBlock, Dropout, GlobalAverage
from fer_core.schema import Params

IMAGE_SIZE = (48, 48)
CLASSES = 7
BATCH_SIZE = 64
WORKERS = 2
WARM_UP_BATCHES = (
    4  # what two workers have prefetched by then is left out, as is their start: in the usual loop's favour
)
USUAL_ORDER = ("conv", "norm", "relu", "pool", "dropout")


class PixelStrings(Dataset[tuple[Tensor, int]]):
    """Rows of fer2013.csv, parsed when asked for."""

    def __init__(self, pixels: Sequence[str], labels: Sequence[int]) -> None:
        self.pixels, self.labels = pixels, labels
        steps = [transforms.RandomHorizontalFlip(), transforms.RandomRotation(10), transforms.ToTensor()]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        values = np.array([int(value) for value in self.pixels[item].split()], dtype=np.uint8)
        return self.transform(Image.fromarray(values.reshape(IMAGE_SIZE))), int(self.labels[item])


def contenders() -> dict[str, nn.Module]:
    """The three networks of the comparison in the project's own layers: what the engine trains; see `plain`."""
    found = {
        name: networks.build(
            Params(network=name, batch_norm=True, dropout=0.25, dropout_fc=0.5), IMAGE_SIZE, 1, CLASSES
        )
        for name in ("basic_cnn", "complex_cnn")
    }
    return {**found, "large": large()}


def large() -> nn.Module:
    """Four blocks of two convolutions, 64 to 256 wide: 384 M multiply-adds."""
    widths = (1, 64, 64, 128, 128, 256, 256, 256, 256)
    pairs = enumerate(itertools.pairwise(widths))
    blocks = [ConvBlock(a, b, norm=True, pool=place % 2 == 1, dropout=0.25 * (place % 2)) for place, (a, b) in pairs]
    return nn.Sequential(*blocks, GlobalAverage(), Dropout(0.5), nn.Linear(widths[-1], CLASSES))


def plain(network: nn.Module) -> nn.Module:
    """A copy, same function and weights, of torch's own layers: convolution, BatchNorm, ReLU, max-pool, Dropout."""
    network = copy.deepcopy(network)
    for name, child in list(network.named_children()):
        setattr(network, name, plain(child))
    if isinstance(network, Dropout):
        return nn.Dropout(network.p)
    if isinstance(network, ConvBlock):
        layers = dict(network.named_children())
        return nn.Sequential(OrderedDict((name, layers[name]) for name in USUAL_ORDER if name in layers))
    return network


def settle() -> None:
    """Wait for what an accelerator still computes: else a clock would stop too early."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def usual_epoch(
    network: nn.Module, pixels: Sequence[str], labels: Sequence[int], images: int, device: str = "cpu"
) -> float:
    """Train for about `images` images (over the data as often as it takes); returns images a second."""
    network = network.to(device)
    loader = DataLoader(PixelStrings(pixels, labels), BATCH_SIZE, shuffle=True, num_workers=WORKERS, drop_last=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    network.train()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    start, loss_sum = 0.0, 0.0
    steps = max(1, images // BATCH_SIZE)
    for step, (inputs, targets) in enumerate(itertools.islice(batches, WARM_UP_BATCHES + steps)):
        if step == WARM_UP_BATCHES:
            settle()
            start = time.perf_counter()
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(inputs.to(device)), targets.to(device))
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
    settle()
    return steps * BATCH_SIZE / (time.perf_counter() - start)
