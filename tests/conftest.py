"""Fixtures that several tests share: a small data set in memory, settings in a temporary folder, no tracking."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fer_core.artifacts import Settings
from fer_core.data import Faces


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests track nothing unless they say so, and do not see what the caller's shell has set."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for name in [name for name in os.environ if name.startswith("FER_") and name != "FER_TEST_DATA"]:
        monkeypatch.delenv(name)


def make_faces(n: int = 120, side: int = 16, classes: int = 3, channels: int = 1, seed: int = 0) -> Faces:
    """Noisy images with a bright bar whose row tells the class; 80 % Training, 10 % each PublicTest and PrivateTest."""
    random = np.random.default_rng(seed)
    labels = (np.arange(n) % classes).astype(np.uint8)
    shape = (n, side, side) if channels == 1 else (n, side, side, channels)
    images = random.integers(0, 90, shape).astype(np.uint8)
    for i, label in enumerate(labels):
        row = 2 + int(label) * (side - 4) // classes
        images[i, row : row + 3] += 120
    usage = np.repeat([0, 1, 2], [n - 2 * (n // 10), n // 10, n // 10]).astype(np.uint8)
    ids = np.array([f"{i:010x}" for i in range(n)])
    names = tuple(f"class{i}" for i in range(classes))
    return Faces(images, labels, usage, ids, np.arange(n, dtype=np.int32), names, "sample", f"hash{seed}{n}", "memory")


@pytest.fixture
def faces() -> Faces:
    return make_faces()


@pytest.fixture
def place(tmp_path: Path) -> Settings:
    """Settings whose OUT is a temporary folder."""
    return Settings(None, "sample", "cpu", tmp_path / "out")
