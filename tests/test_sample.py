"""The drawn sample: the same bits each time, FER2013's proportions, and what the audit is to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fer_core import data, sample
from fer_core.schema import EMOTIONS


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sample.draw(700, 3)


def test_same_seed_gives_the_same_bits(drawn):
    assert all((first == second).all() for first, second in zip(drawn, sample.draw(700, 3), strict=True))


def test_another_seed_gives_other_faces(drawn):
    assert not (sample.draw(700, 4)[0] == drawn[0]).all((1, 2)).any()


def test_usages_are_80_10_10(drawn):
    assert np.bincount(drawn[2]).tolist() == [560, 70, 70]


def test_class_proportions_are_fer2013s(drawn):
    shares = np.bincount(drawn[1], minlength=7) / 700
    wanted = np.array(sample.FER2013_COUNTS) / sum(sample.FER2013_COUNTS)
    assert np.abs(shares - wanted).max() < 0.03  # label noise moves some


def test_every_emotion_is_in_every_part(drawn):
    _, labels, usage = drawn
    assert all(len(np.unique(labels[usage == part])) == len(EMOTIONS) for part in range(3))


def test_expressions_differ_more_than_noise(drawn):
    images, labels, _ = drawn
    happy, surprised = (images[labels == EMOTIONS.index(name)] for name in ("happy", "surprise"))
    mouth = (slice(30, 42), slice(16, 32))
    within = np.abs(happy[::2].mean(0) - happy[1::2].mean(0))[mouth].mean()
    assert np.abs(happy.mean(0) - surprised.mean(0))[mouth].mean() > 2 * within


def test_audit_finds_what_was_planted(tmp_path: Path):
    sample.write(tmp_path / "fer2013.csv", 700, 3)
    counts = data.audit(data.open_faces(tmp_path / "fer2013.csv", tmp_path))
    planted = ("private_copies_of_training", "private_copies_of_public", "public_copies_of_training", "low_contrast")
    assert all(counts[name] > 0 for name in planted)
    assert 0 < counts["leak_free"] < 70


def test_written_file_reads_back_as_drawn(tmp_path: Path, drawn):
    images, labels, usage = drawn
    sample.write(tmp_path / "fer2013.csv", 700, 3)
    faces = data.open_faces(tmp_path / "fer2013.csv", tmp_path)
    assert sorted(image.tobytes() for image in faces.images) == sorted(image.tobytes() for image in images)
    assert (faces.usage == np.sort(usage)).all()
    assert (np.bincount(faces.labels) == np.bincount(labels)).all()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sample, "USAGES", ("Training",))  # fails at the first row of another usage
    with pytest.raises(IndexError):
        sample.write(tmp_path / "fer2013.csv", 70)
    assert list(tmp_path.iterdir()) == []
