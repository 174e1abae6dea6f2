"""What 00_exploration shows: classes, mean faces, transforms, copies and where a split tears them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from fer_core import data, schema
from fer_core.data import Faces
from fer_core.notebook import Table, sentence
from fer_core.schema import Params, percent

AUDIT = {
    "images": "images",
    "duplicate_groups": "groups of images with exactly the same pixels",
    "redundant_copies": "copies beyond the first of each group",
    "conflicting_groups": "groups whose copies disagree on the label",
    "low_contrast": "images with next to no contrast",
    "private_copies_of_training": "PrivateTest images that are exact copies of Training images",
    "private_copies_of_public": "PrivateTest images that are exact copies of PublicTest images",
    "private_copies": "PrivateTest images that are copies of either",
    "public_copies_of_training": "PublicTest images that are exact copies of Training images",
    "leak_free": "PrivateTest images without a copy in Training or PublicTest (leak-free)",
    "unlabelled": "images without a label",
}


def class_counts(faces: Faces, parts: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Images of each class (rows) in each part (columns), whose indices `parts` holds.

    Parameters
    ----------
    faces : all images
    parts : {name: int (n,), rows of `faces`}

    Returns
    -------
    DataFrame : for plots.class_counts
    """
    k = len(faces.classes)
    counts = {name: np.bincount(faces.labels[rows], minlength=k)[:k] for name, rows in parts.items()}
    return pd.DataFrame(counts, index=list(faces.classes))


def merging(faces: Faces, split: data.Split) -> Markdown:
    """How many images the parts have, before and after merging and drawing, in a sentence.

    Parameters
    ----------
    faces : all images
    split : what is made of them

    Returns
    -------
    Markdown
    """
    sizes = {name: int((faces.usage == code).sum()) for code, name in enumerate(data.USAGES)}
    merged = " and ".join(f"{name} ({n:,})" for name, n in sizes.items() if n and name != "PrivateTest")
    train, validation = len(split.train), len(split.validation)
    text = f"{merged} are {train + validation:,} images: {train:,} of them ({train / (train + validation):.2f}) train, "
    return Markdown(f"{text}{validation:,} validate. PrivateTest ({sizes['PrivateTest']:,}) tests.")


def mean_faces(faces: Faces, rows: np.ndarray) -> np.ndarray:
    """The mean image of each class among `rows`: float (k, h, w[, 3]), 0–255; a class without images is black.

    Parameters
    ----------
    faces : all images
    rows : int (n,), those to average

    Returns
    -------
    float (k, h, w) or (k, h, w, 3), 0–255; a class without images is black
    """
    of = [rows[faces.labels[rows] == code] for code in range(len(faces.classes))]
    return np.stack([faces.images[r].mean(0) if len(r) else np.zeros(faces.images.shape[1:]) for r in of])


def marked_mean(faces: Faces, rows: np.ndarray) -> np.ndarray:
    """The mean of some images, a light square in its upper left corner: it shows what is mirrored, and nobody's face.

    Parameters
    ----------
    faces : all images
    rows : int (n,), those to average

    Returns
    -------
    uint8 (h, w) or (h, w, 3)
    """
    mean = faces.images[rows].mean(0).round().astype(np.uint8)
    height, width = mean.shape[0] // 8, mean.shape[1] // 8
    mean[height // 2 : height + height // 2, width // 2 : width + width // 2] = 255
    return mean


def augmented(image: np.ndarray, n: int, **transforms: Any) -> np.ndarray:
    """What training transforms make of one image in n epochs: uint8 (n, h, w[, 3]).

    Parameters
    ----------
    image : uint8 (h, w) or (h, w, 3)
    n : epochs
    transforms : parameters of the group `transforms`

    Returns
    -------
    uint8 (n, h, w) or (n, h, w, 3)
    """
    import torch

    from fer_core import augment, training

    params = Params().replace(**transforms)
    numbers = torch.cat([augment.draw(params, 1, 0, epoch) for epoch in range(1, n + 1)])
    changed = augment.apply(training.channels_first(np.stack([image] * n)), numbers, params)
    return changed.permute(0, 2, 3, 1).squeeze(3).round().clamp(0, 255).byte().numpy()


def audit_table(audit: Mapping[str, int]) -> Table:
    """`data.audit` in words.

    Parameters
    ----------
    audit : of `data.audit`

    Returns
    -------
    Table
    """
    rows = [(words, f"{audit[name]:,}") for name, words in AUDIT.items()]
    return Table.of(rows, ["counted by exact pixels", "found"])


def torn_table(faces: Faces) -> Table:
    """Copies torn apart between training and validation, by each way of splitting.

    Parameters
    ----------
    faces : all images

    Returns
    -------
    Table : a row a way of splitting
    """
    rows = []
    for kind in schema.SPECS["split"].choices:
        if kind == "official" and not (faces.usage == data.PUBLIC).any():
            rows.append((kind, "–", "–", "–", "no PublicTest images here"))
            continue
        try:
            split = data.make_split(faces, kind)
        except schema.ParameterError as fault:  # own data may be too small for one
            rows.append((kind, "–", "–", "–", str(fault)))
            continue
        torn, n = data.torn_copies(faces, split), len(split.validation)
        rows.append((kind, f"{len(split.train):,}", f"{n:,}", f"{torn:,}", percent(torn / n)))
    columns = ["split, drawn with seed 0", "training", "validation", "of which have a copy in training", "share"]
    return Table.of(rows, columns)


def leaked_table(faces: Faces, splits: Mapping[str, data.Split]) -> Table:
    """Where the copies of leaked test images went: only those that train a network can have been seen.

    Parameters
    ----------
    faces : all images
    splits : of each arm

    Returns
    -------
    Table : a row an arm
    """
    rows = []
    for arm, split in splits.items():
        leaked = faces.copies[split.test[~split.leak_free]]
        trained, validated = (np.isin(leaked, faces.copies[part]) for part in (split.train, split.validation))
        places = trained, validated & ~trained, ~validated & ~trained
        counts = len(split.train), len(leaked), *(found.sum() for found in places)
        rows.append((arm, *(f"{n:,}" for n in counts)))
    columns = ["arm", "training", "leaked test images", "with a copy in training", "in validation alone", "in neither"]
    return Table.of(rows, columns)


def finding(faces: Faces, audit: Mapping[str, int]) -> Markdown:
    """The exploration in one sentence.

    Parameters
    ----------
    faces : all images
    audit : of `data.audit`

    Returns
    -------
    Markdown
    """
    n = int((faces.usage == data.PRIVATE).sum())
    text = f"{audit['private_copies']:,} of the {n:,} test images are exact copies of images in Training or PublicTest"
    if audit["private_copies"] and faces.has_test_labels:
        text += f" ({audit['private_copies_of_training']:,} of Training images), so every test accuracy stands here "
        text += f"twice: official (n = {n:,}) and leak-free (n = {audit['leak_free']:,})"
    return sentence(text)
