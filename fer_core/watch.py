"""The test accuracy of every epoch, written down without anybody looking: what choosing the epoch by it would claim.

It is measured beside the training, from each checkpoint, and cannot change the run: no generator of the training is
touched, and nothing reads the file before the page's last section does.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from fer_core import artifacts, data, devices, networks, training
from fer_core.artifacts import Run, Settings, run_folder, run_key
from fer_core.data import Faces
from fer_core.schema import FerError, Params
from fer_core.training import OnEpoch

FILE = artifacts.WATCHED_FILE
COLUMNS = ("epoch", "test_official_accuracy", "test_leak_free_accuracy")


def place(params: Params, settings: Settings, data_hash: str) -> Path:
    """The run's folder in the store, whether it is there or not."""
    resolved, device = devices.resolve(params, settings.device)
    return run_folder(settings.store, run_key(resolved, data_hash, device).key)


def checkpoint(folder: Path) -> dict[str, Any] | None:
    """What the checkpoint of a run under way holds; None where there is none that is whole."""
    path = folder / "checkpoint.pt"
    stored = path.read_bytes() if path.exists() else b""
    if not stored or hashlib.sha256(stored[32:]).digest() != stored[:32]:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(stored[32:]), map_location="cpu", weights_only=True)
    return state


def train_or_load(
    params: Params,
    settings: Settings,
    faces: Faces,
    on_epoch: OnEpoch | None = None,
    time_limit_minutes: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """`training.train_or_load`, watched. A run that has lost files is trained anew.

    Raises
    ------
    Stopped, FerError: as there; and where there is a GPU that this torch cannot compute on.
    """
    _, device = devices.resolve(params, settings.device)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as fault:
        why = f"The memory of the {device} device is full: end what uses it, or use DEVICE=cpu."
        if "out of memory" not in str(fault):
            why = f"This machine has a {device} device, but torch {torch.__version__} cannot compute on it: "
            why += "use DEVICE=cpu, or a torch that was built for its driver."
        raise FerError(why) from fault
    folder = place(params, settings, faces.data_hash)
    run = Run(folder.name, params, folder)
    if run.finished and not run.whole:
        with FileLock(folder.with_suffix(".lock")):
            (folder / "run.json").unlink(missing_ok=True)
    heard = watching(params, settings, faces, on_epoch)
    return training.train_or_load(params, settings, faces, heard, time_limit_minutes, stop)


def watching(params: Params, settings: Settings, faces: Faces, on_epoch: OnEpoch | None = None) -> OnEpoch:
    """`on_epoch` for `training.train_or_load`, which also writes test_by_epoch.csv where the parameters ask for it.

    An epoch whose row a kill kept out of the file is measured when the training goes on: its checkpoint still stands.
    """
    heard = on_epoch or (lambda row: None)
    if not (params.test_by_epoch and params.score_test and faces.has_test_labels):
        return heard
    watch = _Watch(params, settings, faces)

    def watched(row: dict[str, Any]) -> None:
        watch.write_down()
        heard(row)

    state = checkpoint(watch.folder)
    if state and len(state["history"]) == params.epochs:  # killed at the very end: no further row will come
        watch.write_down()
    return watched


class _Watch:
    """Of one run: its test images and the scale of its pixels, made ready once, when they are first needed."""

    def __init__(self, params: Params, settings: Settings, faces: Faces) -> None:
        self.params, self.device = devices.resolve(params, settings.device)
        self.faces, self.folder = faces, place(params, settings, faces.data_hash)

    @cached_property
    def _ready(self) -> tuple[data.Split, training.ImageSet, tuple[torch.Tensor, torch.Tensor]]:
        split = data.split_of(self.faces, self.params)
        test = training.image_set(self.faces, split.test, self.device)
        return split, test, training.pixel_scale(self.faces.images[split.train], self.device)

    def write_down(self) -> None:
        """Add the row of the checkpoint's epoch, unless it is there."""
        file, state = self.folder / FILE, checkpoint(self.folder)
        known = pd.read_csv(file).to_dict("records") if file.exists() else []
        if state is None or (epoch := len(state["history"])) in [row["epoch"] for row in known]:
            return
        split, test, scale = self._ready
        answers = training.predict(self._network(state), test.images, scale, self.params).argmax(1)
        right = (answers == test.labels).cpu().numpy()
        row = dict(zip(COLUMNS, (epoch, right.mean(), right[split.leak_free].mean()), strict=True))
        artifacts.write_frame(file, pd.DataFrame([*known, row], columns=list(COLUMNS)).astype({"epoch": int}))

    def _network(self, state: dict[str, Any]) -> torch.nn.Module:
        """With the weights that are measured by epoch."""
        faces = self.faces
        with torch.random.fork_rng():  # its weights are drawn, then overwritten
            network = networks.build(self.params, faces.image_size, faces.channels, len(faces.classes))
        weights = state["network"]
        if (average := state["average"]) is not None:
            weights = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
        network.load_state_dict(weights)
        return network.to(self.device).to(memory_format=torch.channels_last)
