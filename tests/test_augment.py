"""Changes of training images: each part alone, and that an image's change depends on nothing but its own numbers."""

import math

import numpy as np
import pytest
import torch

from fer_core import augment
from fer_core.schema import Params

SIDE = 24
EVERYTHING = Params(
    rotation_degrees=10,
    shift_fraction=0.1,
    scale_fraction=0.1,
    mirror_probability=0.5,
    half_turn_probability=0.2,
    light_fraction=0.3,
    erase_pixels=8,
    erase_probability=0.5,
)
PARTS = {
    "rotation": {"rotation_degrees": 10.0},
    "shift": {"shift_fraction": 0.2},
    "scale": {"scale_fraction": 0.3},
    "mirror": {"mirror_probability": 1.0},
    "half_turn": {"half_turn_probability": 1.0},
    "light": {"light_fraction": 0.3},
    "erase": {"erase_pixels": 6, "erase_probability": 1.0},
}


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth pictures, as faces are: uint8 (40, 1, 24, 24)."""
    coarse = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").to(torch.uint8)


def changed(images: torch.Tensor, params: Params, seed: int = 0, epoch: int = 1) -> torch.Tensor:
    return augment.apply(images, augment.draw(params, len(images), seed, epoch), params)


def numbers(**columns: float) -> torch.Tensor:
    """A table of one row whose gates let everything through and whose amounts are nil, but for these columns."""
    row = torch.tensor([[0.0 if name.endswith("_if") else 0.5 for name in augment.COLUMNS]])
    for name, value in columns.items():
        row[0, augment.COLUMNS.index(name)] = value
    return row


def test_nothing_on_leaves_the_pixels_exactly(images: torch.Tensor) -> None:
    result = changed(images, Params())
    assert result.dtype == torch.float32
    assert torch.equal(result, images.float())


@pytest.mark.parametrize("part", PARTS)
def test_a_part_changes_images_when_on_and_none_when_its_probability_is_nil(images: torch.Tensor, part: str) -> None:
    on = Params(**PARTS[part])
    differs = (changed(images, on) != images).flatten(1).any(1)
    assert differs.float().mean() > 0.9
    off = Params(**{**PARTS[part], f"{part}_probability": 0.0})
    assert torch.equal(changed(images, off), images.float())


@pytest.mark.parametrize("part", PARTS)
def test_a_rare_part_leaves_the_other_images_exact(images: torch.Tensor, part: str) -> None:
    params = Params(**{**PARTS[part], f"{part}_probability": 0.3})
    differs = (changed(images, params) != images).flatten(1).any(1)
    gate = augment.draw(params, len(images), 0, 1)[:, augment.COLUMNS.index(f"{part}_if")] < 0.3
    assert torch.equal(differs, gate)
    assert 0 < gate.sum() < len(images)


def test_an_image_does_not_depend_on_its_batch(images: torch.Tensor) -> None:
    table = augment.draw(EVERYTHING, len(images), 3, 5)
    together = augment.apply(images, table, EVERYTHING)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    for size in (1, 3, 7, 16):
        parts = [augment.apply(images[rows], table[rows], EVERYTHING) for rows in order.split(size)]
        assert torch.equal(torch.cat(parts), together[order])


def test_an_image_does_not_depend_on_how_many_others_there_are() -> None:
    assert torch.equal(augment.draw(EVERYTHING, 9, 1, 2), augment.draw(EVERYTHING, 30, 1, 2)[:9])


def test_seed_and_epoch_each_change_the_numbers() -> None:
    one, again, seed, epoch = (augment.draw(EVERYTHING, 5, *key) for key in ((1, 2), (1, 2), (2, 2), (1, 3)))
    assert torch.equal(one, again)
    assert not torch.equal(one, seed)
    assert not torch.equal(one, epoch)


def test_mirror_and_half_turn_are_exact(images: torch.Tensor) -> None:
    assert torch.equal(changed(images, Params(mirror_probability=1)), images.flip(3).float())
    assert torch.equal(changed(images, Params(half_turn_probability=1)), images.flip((2, 3)).float())


def test_rotation_by_a_right_angle_is_a_right_angle(images: torch.Tensor) -> None:
    result = augment.apply(images[:1], numbers(rotation=1.0), Params(rotation_degrees=90))
    turned = [torch.rot90(images[:1].float(), quarter, (2, 3)) for quarter in (-1, 1)]
    assert min((result - candidate).abs().max() for candidate in turned) < 0.01


def test_shift_by_whole_pixels_moves_the_picture(images: torch.Tensor) -> None:
    result = augment.apply(images[:1], numbers(shift_x=1.0), Params(shift_fraction=0.25))  # 6 pixels to the right
    assert (result[..., 6:] - images[:1, :, :, :-6]).abs().max() < 0.01
    assert (result[..., :6] - images[:1, :, :, :1]).abs().max() < 0.01  # the edge goes on, no black


def test_geometry_leaves_no_black_corners() -> None:
    bright = torch.full((8, 1, SIDE, SIDE), 200, dtype=torch.uint8)
    params = Params(rotation_degrees=45, shift_fraction=0.3, scale_fraction=0.5)
    assert (changed(bright, params) - 200).abs().max() < 0.01


def test_light_stays_within_the_range_of_a_pixel(images: torch.Tensor) -> None:
    result = changed(images, Params(light_fraction=0.9))
    assert result.min() >= 0
    assert result.max() <= 255
    assert result.mean((1, 2, 3)).std() > images.float().mean((1, 2, 3)).std()


def test_erased_square_has_its_side_and_the_mean_grey() -> None:
    image = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    image[..., SIDE // 2 :] = 100
    result = augment.apply(image, numbers(), Params(erase_pixels=6, erase_probability=1))
    assert (result == 50).sum() == 36
    assert (result != image).sum() == 36


def test_half_of_the_images_are_mirrored_when_asked() -> None:
    images = torch.arange(SIDE, dtype=torch.uint8).expand(2000, 1, SIDE, SIDE)
    share = (changed(images, Params(mirror_probability=0.5))[:, 0, 0, 0] > 0).float().mean()
    assert share == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / 2000))


def test_colour_images_change_as_one(images: torch.Tensor) -> None:
    colour = changed(images.expand(-1, 3, -1, -1), EVERYTHING)
    assert torch.equal(colour[:, 0], colour[:, 2])


def test_same_augmentation_fault_gives_the_batch_its_first_images_change(images: torch.Tensor) -> None:
    copies = images[:1].expand(6, -1, -1, -1)
    table = augment.draw(EVERYTHING, 6, 0, 1)
    faulty = augment.apply(copies, table, EVERYTHING.replace(data_fault="same_augmentation"))
    healthy = augment.apply(copies, table, EVERYTHING)
    assert all(torch.equal(faulty[0], other) for other in faulty)
    assert torch.equal(faulty[0], healthy[0])
    assert not torch.equal(healthy[0], healthy[1])


def test_mixup_is_the_weighted_sum_of_two_images() -> None:
    pictures, labels = torch.rand(16, 1, 8, 8), torch.arange(16)
    mixed, own, partners, weight = augment.mix(pictures, labels, Params(mixup_alpha=1.0), 0, 1, 2)
    assert torch.equal(own, labels)
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * pictures + (1 - weight) * pictures[partners])


def test_cutmix_weight_is_the_share_of_pixels_that_stayed() -> None:
    pictures = torch.arange(16.0)[:, None, None, None].expand(16, 1, 8, 8)
    for batch in range(20):
        mixed, _, partners, weight = augment.mix(pictures, torch.arange(16), Params(cutmix_alpha=1.0), 0, 1, batch)
        moved = partners != torch.arange(16)
        stayed = (mixed == pictures).flatten(1).float().mean(1)[moved]
        assert torch.allclose(stayed, torch.tensor(weight, dtype=torch.float32))


def test_mixing_depends_on_seed_epoch_and_batch_alone() -> None:
    pictures, labels, params = torch.rand(8, 1, 8, 8), torch.arange(8), Params(mixup_alpha=0.4, cutmix_alpha=1.0)
    weights = {key: augment.mix(pictures, labels, params, *key)[3] for key in np.ndindex(2, 2, 2)}
    assert len(set(weights.values())) == 8
    torch.rand(3)
    assert augment.mix(pictures, labels, params, 1, 0, 1)[3] == weights[1, 0, 1]


def test_no_mixing_gives_back_the_batch() -> None:
    pictures, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    mixed, own, partners, weight = augment.mix(pictures, labels, Params(), 0, 1, 0)
    assert mixed is pictures
    assert own is partners is labels
    assert weight == 1
