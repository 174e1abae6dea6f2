"""The test accuracy of every epoch, written down without anybody looking: what choosing the epoch by it would claim.

It is measured beside the training, from each checkpoint, and cannot change the run: no generator of the training is
touched, and nothing reads the file before the page's last section does.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fer_core import artifacts, data, devices, networks, training
from fer_core.artifacts import Settings, run_folder, run_key
from fer_core.data import Faces
from fer_core.schema import Params
from fer_core.training import OnEpoch

FILE = artifacts.WATCHED_FILE
COLUMNS = ("epoch", "test_official_accuracy", "test_leak_free_accuracy")


def checkpoint(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint of a run under way holds; None where there is none that is whole."""
    path = folder / "checkpoint.pt"
    stored = path.read_bytes() if path.exists() else b""
    if not stored or hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(stored[32:]), map_location="cpu", weights_only=True)
    return state


def watching(params: Params, settings: Settings, faces: Faces, on_epoch: OnEpoch | None = None) -> OnEpoch:
    """`on_epoch` for `training.train_or_load`, which also writes test_by_epoch.csv where the parameters ask for it.

    An epoch whose row a kill kept out of the file is measured when the training goes on: its checkpoint still stands.
    """
    heard = on_epoch or (lambda row: None)
    if not (params.test_by_epoch and params.score_test and faces.has_test_labels):
        return heard
    resolved, device = devices.resolve(params, settings.device)
    folder = run_folder(settings.store, run_key(resolved, faces.data_hash, device).key)

    def watched(row: dict[str, Any]) -> None:
        _write_down(folder, resolved, faces, device)
        heard(row)

    state = checkpoint(folder)
    if state and len(state["history"]) == resolved.epochs:  # killed at the very end: no further row will come
        _write_down(folder, resolved, faces, device)
    return watched


def _write_down(folder: Path, params: Params, faces: Faces, device: str) -> None:
    state = checkpoint(folder)
    known = pd.read_csv(folder / FILE).to_dict("records") if (folder / FILE).exists() else []
    epoch = len(state["history"]) if state else 0
    if state is None or epoch in [row["epoch"] for row in known]:
        return
    right, leak_free = _right(state, params, faces, device)
    rows = [*known, dict(zip(COLUMNS, (epoch, right.mean(), right[leak_free].mean()), strict=True))]
    artifacts.write_frame(folder / FILE, pd.DataFrame(rows, columns=list(COLUMNS)).astype({"epoch": int}))


def _right(state: dict[str, Any], params: Params, faces: Faces, device: str) -> tuple[Any, Any]:
    """Whether the weights that are measured by epoch are right about each test image, and which are leak-free."""
    split = data.make_split(faces, params.split, params.train_fraction, params.split_seed, params.drop_leaked_copies)
    with torch.random.fork_rng():  # its weights are drawn, then overwritten
        network = networks.build(params, faces.image_size, faces.channels, len(faces.classes))
    average = state["average"]
    weights = state["network"]
    if average is not None:
        weights = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
    network.load_state_dict(weights)
    network = network.to(device).to(memory_format=torch.channels_last)
    images = training.image_set(faces, split.test, device)
    scale = training.pixel_scale(faces.images[split.train], device)
    answers = training.predict(network, images.images, scale, params).argmax(1)
    return (answers == images.labels).cpu().numpy(), split.leak_free
