"""Random changes of training images, in batches on the images' device.

An image's change depends on (seed, epoch, image) alone: not on its batch, its device or how the run was resumed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fer_core.schema import Params

# Columns of the table of uniform numbers.
COLUMNS = (
    *("rotation_if", "rotation", "shift_if", "shift_x", "shift_y", "scale_if", "scale", "mirror_if", "half_turn_if"),
    *("light_if", "brightness", "contrast", "erase_if", "erase_x", "erase_y"),
)


def draw(params: Params, n: int, seed: int, epoch: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform numbers in [0, 1) for one epoch; drawn on the CPU whatever the device, so that all devices see the same.

    Returns
    -------
    Tensor : float32 (n, 15); a row an image in canonical order, columns as in COLUMNS
    """
    numbers = np.random.default_rng([seed, epoch]).random((n, len(COLUMNS)), dtype=np.float32)
    return torch.from_numpy(numbers).to(device)


def apply(images: Tensor, numbers: Tensor, params: Params) -> Tensor:
    """The images changed: mirrored and turned upside down, then turned, scaled and shifted, then light, then erased.

    Parameters
    ----------
    images : uint8 (b, c, h, w)
    numbers : float32 (b, 15), the images' rows of `draw`'s table

    Returns
    -------
    Tensor : float32 (b, c, h, w), 0 to 255; an image that no part of `params` touches comes back exactly
    """
    if params.data_fault == "same_augmentation":
        numbers = numbers[:1].expand(len(images), -1)
    column = dict(zip(COLUMNS, numbers.unbind(1), strict=True))
    if params.mirror_probability:
        images = _where(column["mirror_if"] < params.mirror_probability, images.flip(3), images)
    if params.half_turn_probability:
        images = _where(column["half_turn_if"] < params.half_turn_probability, images.flip((2, 3)), images)
    changed = images.float()
    if _moves(params):
        changed = _move(changed, column, params)
    if _changes_light(params):
        changed = _change_light(changed, column, params)
    if _erases(params):
        changed = _erase(changed, column, params)
    return changed


def _moves(params: Params) -> bool:
    return bool(
        params.rotation_degrees * params.rotation_probability
        or params.shift_fraction * params.shift_probability
        or params.scale_fraction * params.scale_probability
    )


def _changes_light(params: Params) -> bool:
    return params.light_fraction * params.light_probability > 0


def _erases(params: Params) -> bool:
    return params.erase_pixels * params.erase_probability > 0


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], one, other)


def _amount(uniform: Tensor, largest: float, gate: Tensor, probability: float) -> Tensor:
    """Uniform in -largest to largest for the images that the gate lets through, 0 for the others.  (b,) -> (b,)."""
    return torch.where(gate < probability, (2 * uniform - 1) * largest, 0.0)


def _move(images: Tensor, column: dict[str, Tensor], params: Params) -> Tensor:
    """Turn about the centre, scale and shift in one bilinear sampling; untouched images stay exact.

    Beyond the edge the nearest pixel goes on: black corners would tell turned images from others, and a reflection
    would put a second chin or ear into them.
    """
    h, w = images.shape[2:]
    angle = _amount(
        column["rotation"], math.radians(params.rotation_degrees), column["rotation_if"], params.rotation_probability
    )
    scale = 1 + _amount(column["scale"], params.scale_fraction, column["scale_if"], params.scale_probability)
    shift = [
        _amount(column[f"shift_{axis}"], params.shift_fraction * side, column["shift_if"], params.shift_probability)
        for axis, side in (("x", w), ("y", h))
    ]
    # In double precision, since a float's sine may differ in its last bit with the place in the batch (vector or not).
    cosine, sine = ((part(angle.double()) / scale.double()).float()[:, None, None] for part in (torch.cos, torch.sin))
    # Output pixel -> the input position shown there, in pixels from the centre: (b, h, w) each.
    x = (torch.arange(w, device=images.device) - (w - 1) / 2)[None, None, :] - shift[0][:, None, None]
    y = (torch.arange(h, device=images.device) - (h - 1) / 2)[None, :, None] - shift[1][:, None, None]
    grid = torch.stack(((cosine * x + sine * y) * (2 / w), (cosine * y - sine * x) * (2 / h)), dim=3)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    touched = (angle != 0) | (scale != 1) | (shift[0] != 0) | (shift[1] != 0)
    return _where(touched, moved, images)


def _change_light(images: Tensor, column: dict[str, Tensor], params: Params) -> Tensor:
    """Brightness times 1 ± fraction, then contrast about the image's mean times 1 ± fraction; clipped to 0 to 255."""
    gain, contrast = (
        1
        + _amount(column[name], params.light_fraction, column["light_if"], params.light_probability)[
            :, None, None, None
        ]
        for name in ("brightness", "contrast")
    )
    lit = images * gain
    mean = lit.mean((1, 2, 3), keepdim=True)
    changed = ((lit - mean) * contrast + mean).clamp_(0, 255)
    return _where(column["light_if"] < params.light_probability, changed, images)


def _erase(images: Tensor, column: dict[str, Tensor], params: Params) -> Tensor:
    """A square of the image's mean grey, its centre anywhere in the image: at the edge a part of it lies outside."""
    h, w = images.shape[2:]
    top, left = (
        (column[name] * side).floor() - params.erase_pixels // 2 for name, side in (("erase_y", h), ("erase_x", w))
    )
    inside = []
    for start, side in ((top, h), (left, w)):
        place = torch.arange(side, device=images.device) - start[:, None]  # (b, side)
        inside.append((place >= 0) & (place < params.erase_pixels))
    square = inside[0][:, :, None] & inside[1][:, None, :]  # (b, h), (b, w) -> (b, h, w)
    square &= (column["erase_if"] < params.erase_probability)[:, None, None]
    return torch.where(square[:, None], images.mean((2, 3), keepdim=True), images)


def mix(
    images: Tensor, labels: Tensor, params: Params, seed: int, epoch: int, batch: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899) of a batch with itself; one of the two at random if both.

    Parameters
    ----------
    images : float (b, c, h, w)
    labels : int (b,)
    seed, epoch, batch : all that the partners, the kind and the weight depend on

    Returns
    -------
    images, labels, the partners' labels (b,), weight : the loss is weight x the labels' + (1 - weight) x the partners'
    """
    kinds = [name for name in ("mixup", "cutmix") if getattr(params, f"{name}_alpha") > 0]
    if not kinds:
        return images, labels, labels, 1.0
    random = np.random.default_rng([seed, epoch, batch])
    kind = kinds[random.integers(len(kinds))]
    weight = float(random.beta(*2 * (getattr(params, f"{kind}_alpha"),)))
    partners = torch.from_numpy(random.permutation(len(images))).to(images.device)
    if kind == "mixup":
        return weight * images + (1 - weight) * images[partners], labels, labels[partners], weight
    box = []
    for side in images.shape[2:]:
        centre, half = random.integers(side), side * math.sqrt(1 - weight) / 2
        box.append(slice(max(0, round(centre - half)), min(side, round(centre + half))))
    mixed = images.clone()
    mixed[:, :, box[0], box[1]] = images[partners][:, :, box[0], box[1]]
    pasted = (box[0].stop - box[0].start) * (box[1].stop - box[1].start) / math.prod(images.shape[2:])
    return mixed, labels, labels[partners], 1 - pasted
