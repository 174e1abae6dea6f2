"""A run: the same bits every time, resumed or not, and each part of the recipe doing something."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fer_core import artifacts, augment, devices, networks, training
from fer_core.artifacts import Run, Settings
from fer_core.data import Faces, make_split
from fer_core.schema import FerError, Params

from .conftest import make_faces

SMALL = Params(
    network="basic_cnn",
    width=0.25,
    batch_norm=True,
    epochs=3,
    batch_size=16,
    learning_rate=0.01,
    threads=1,
    precision="float32",
)
FILES = ("model.safetensors", "history.csv", "predictions.parquet", "metrics.json", "network.csv")


def train(params: Params, faces: Faces, out: Path, **options: Any) -> Run:
    return training.train_or_load(params, Settings(None, "sample", "cpu", out), faces, **options)


def content(run: Run) -> dict[str, bytes]:
    return {name: (run.folder / name).read_bytes() for name in FILES}


def stop_after(calls: int) -> Any:
    counter = itertools.count()
    return lambda: next(counter) >= calls


def test_run_learns_and_leaves_the_promised_artifacts(faces: Faces, tmp_path: Path) -> None:
    run = train(SMALL.replace(epochs=12, clean_accuracy=True), faces, tmp_path)
    assert run.state == "done"
    assert tuple(run.history.columns) == artifacts.HISTORY_COLUMNS
    assert list(run.history.epoch) == list(range(1, 13))
    assert run.metrics["validation"]["accuracy"] > 0.8
    last = run.history.iloc[-1]
    assert run.metrics["gap"] == pytest.approx(last.train_accuracy - last.validation_accuracy)
    assert run.metrics["validation"]["accuracy"] == pytest.approx(last.validation_accuracy)
    assert run.metrics["validation"]["loss"] == pytest.approx(last.validation_loss, abs=1e-5)
    assert last.train_clean_accuracy > 0.8
    assert "test_official" not in run.metrics
    assert set(run.predictions.split) == {"validation"}
    assert all((run.folder / name).exists() for name in artifacts.RUN_FILES)
    assert not (run.folder / "checkpoint.pt").exists()


def test_same_parameters_give_the_same_bytes_in_another_folder(faces: Faces, tmp_path: Path) -> None:
    params = SMALL.replace(dropout=0.25, rotation_degrees=10.0, mirror_probability=0.5)
    assert content(train(params, faces, tmp_path / "a")) == content(train(params, faces, tmp_path / "b"))


def test_another_seed_gives_other_weights(faces: Faces, tmp_path: Path) -> None:
    first, second = (train(SMALL.replace(seed=seed), faces, tmp_path) for seed in (0, 1))
    assert content(first)["model.safetensors"] != content(second)["model.safetensors"]


@pytest.mark.parametrize("batches", [0, 1, 5, 8, 13])
def test_stopped_run_goes_on_to_the_bytes_of_one_never_stopped(faces: Faces, tmp_path: Path, batches: int) -> None:
    params = SMALL.replace(
        dropout=0.25, ema_decay=0.9, schedule="plateau", plateau_patience=0, select="best_validation_accuracy"
    )
    whole = train(params, faces, tmp_path / "whole")
    with pytest.raises(training.Stopped):
        train(params, faces, tmp_path / "cut", stop=stop_after(batches))
    said: list[dict[str, Any]] = []
    resumed = train(params, faces, tmp_path / "cut", on_epoch=said.append)
    assert content(resumed) == content(whole)
    epochs_before = batches // math.ceil(len(make_split(faces).train) / 16)
    if epochs_before:
        assert said[0] == {"resuming": epochs_before + 1, "epochs": 3}


def test_torn_checkpoint_is_not_used(faces: Faces, tmp_path: Path) -> None:
    whole = train(SMALL, faces, tmp_path / "whole")
    with pytest.raises(training.Stopped):
        train(SMALL, faces, tmp_path / "cut", stop=stop_after(9))
    checkpoint = next((tmp_path / "cut").rglob("checkpoint.pt"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert content(train(SMALL, faces, tmp_path / "cut")) == content(whole)


def test_time_limit_cuts_at_an_epochs_end_and_the_next_call_goes_on(faces: Faces, tmp_path: Path) -> None:
    whole = train(SMALL, faces, tmp_path / "whole")
    cut = train(SMALL, faces, tmp_path / "cut", time_limit_minutes=1e-9)
    assert cut.state in ("cut", "missing")
    assert not cut.finished
    assert content(train(SMALL, faces, tmp_path / "cut")) == content(whole)


def test_finished_run_is_loaded_not_trained(faces: Faces, tmp_path: Path) -> None:
    first = train(SMALL, faces, tmp_path)
    stamp = (first.folder / "run.json").stat().st_mtime_ns
    again = train(SMALL, faces, tmp_path, on_epoch=lambda row: pytest.fail("trained again"))
    assert (again.folder / "run.json").stat().st_mtime_ns == stamp


RECIPE = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd"},
    "momentum": ({"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.5}),
    "weight_decay": {"weight_decay": 0.1},
    "cosine": {"schedule": "cosine"},
    "one_cycle": {"schedule": "one_cycle"},
    "warmup": {"warmup_fraction": 0.5},
    "clipping": {"gradient_clip": 0.01},
    "class_weights": {"class_weights": True},
    "label_smoothing": {"label_smoothing": 0.2},
    "ema": {"ema_decay": 0.9},
    "mixup": {"mixup_alpha": 1.0},
    "cutmix": {"cutmix_alpha": 1.0},
    "erasing": {"erase_pixels": 6, "erase_probability": 1.0},
    "rotation": {"rotation_degrees": 20.0},
    "shift": {"shift_fraction": 0.2},
    "scale": {"scale_fraction": 0.2},
    "mirror": {"mirror_probability": 0.5},
    "half_turn": {"half_turn_probability": 0.5},
    "light": {"light_fraction": 0.3},
    "rare": ({"rotation_degrees": 20.0}, {"rotation_degrees": 20.0, "rotation_probability": 0.2}),
    "dropout": {"dropout": 0.3},
    "dropout_fc": {"dropout_fc": 0.3},
    "no_batch_norm": {"batch_norm": False},
    "kaiming": {"initialisation": "kaiming"},
    "small_normal": {"initialisation": "small_normal"},
    "batch_size": {"batch_size": 8},
    "official_split": {"split": "official"},
    "split_seed": {"split_seed": 1},
    "labels_out_of_step": {"data_fault": "labels_out_of_step"},
    "normalised_twice": {"data_fault": "normalised_twice"},
    "same_augmentation": ({"light_fraction": 0.3}, {"light_fraction": 0.3, "data_fault": "same_augmentation"}),
}


@pytest.mark.parametrize("part", RECIPE)
def test_each_part_of_the_recipe_changes_the_weights(part: str, tmp_path: Path) -> None:
    faces = uneven_faces()
    entry = RECIPE[part]
    off, on = entry if isinstance(entry, tuple) else ({}, entry)
    base = SMALL.replace(epochs=1)
    without, with_part = (train(base.replace(**change), faces, tmp_path) for change in (off, on))
    assert content(without)["model.safetensors"] != content(with_part)["model.safetensors"]


def uneven_faces() -> Faces:
    """One class rarer than the others, so that class weights have something to weigh."""
    faces = make_faces()
    labels = faces.labels.copy()
    labels[::4] = 0
    return dataclasses.replace(faces, labels=labels)


def test_plateau_lowers_the_rate_exactly_as_torchs_scheduler_does() -> None:
    losses = [1.0, 0.9, 0.95, 0.91, 0.90, 0.89995, 0.95, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    for patience in (0, 1, 3):
        params = Params(schedule="plateau", plateau_factor=0.5, plateau_patience=patience, learning_rate=0.1)
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], 0.1)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, eps=0)
        for epoch, loss in enumerate(losses):
            theirs.step(loss)
            history = [{"validation_loss": value} for value in losses[: epoch + 1]]
            ours = training.learning_rate(params, 0, 100, history)
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"])


def test_schedules_start_peak_and_end_where_they_should() -> None:
    def rates(**changes: Any) -> list[float]:
        return [training.learning_rate(Params(learning_rate=1.0, **changes), step, 100, []) for step in range(100)]

    assert set(rates()) == {1.0}
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[-1] < 0.001
    cycle = rates(schedule="one_cycle", warmup_fraction=0.2)
    assert max(cycle) == 1.0 == cycle[20]
    assert cycle[0] < 0.1
    assert cycle[-1] < 0.02
    assert cycle[:21] == sorted(cycle[:21])


def test_early_stopping_ends_after_so_many_epochs_without_a_better_one(faces: Faces, tmp_path: Path) -> None:
    params = SMALL.replace(epochs=40, early_stopping_patience=2, select="best_validation_accuracy")
    run = train(params, faces, tmp_path)
    accuracies = run.history.validation_accuracy.to_numpy()
    assert len(accuracies) < 40
    assert len(accuracies) - 1 - int(np.argmax(accuracies)) == 2
    assert run.selected_epoch == int(np.argmax(accuracies)) + 1


def test_selecting_the_best_epoch_keeps_its_weights(faces: Faces, tmp_path: Path) -> None:
    run = train(SMALL.replace(epochs=8, select="best_validation_accuracy", learning_rate=0.05), faces, tmp_path)
    accuracies = run.history.validation_accuracy
    assert run.selected_epoch == int(accuracies.idxmax()) + 1
    assert run.metrics["validation"]["accuracy"] == pytest.approx(accuracies.max())


def test_moving_average_is_measured_and_kept(faces: Faces, tmp_path: Path) -> None:
    slow = train(SMALL.replace(ema_decay=0.9999), faces, tmp_path)
    torch.manual_seed(0)
    fresh = networks.build(slow.params, faces.image_size, 1, 3)
    kept = training.load_network(slow, faces)
    pairs = list(zip(fresh.parameters(), kept.parameters(), strict=True))
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 0.02


def test_views_change_predictions_not_weights(faces: Faces, tmp_path: Path) -> None:
    one, ten = (train(SMALL.replace(test_views=views), faces, tmp_path) for views in (1, 10))
    assert content(one)["model.safetensors"] == content(ten)["model.safetensors"]
    assert not one.predictions.equals(ten.predictions)
    columns = [name for name in ten.predictions if name.startswith("p_")]
    assert np.allclose(ten.predictions[columns].sum(axis=1), 1, atol=1e-5)


def test_nan_loss_ends_the_run_as_diverged_with_epoch_and_batch(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = training.train_step

    def faulty(session: Any, chosen: Any, numbers: Any, epoch: int, batch: int) -> Any:
        loss, right, norm = healthy(session, chosen, numbers, epoch, batch)
        return (loss * math.nan if (epoch, batch) == (2, 1) else loss), right, norm

    monkeypatch.setattr(training, "train_step", faulty)
    run = train(SMALL, faces, tmp_path)
    assert run.state == "diverged"
    assert "epoch 2, batch 2" in run.provenance["reason"]
    assert run.selected_epoch == 1
    assert math.isnan(run.history.validation_accuracy.iloc[-1])


def test_nan_in_the_first_epoch_still_leaves_whole_artifacts(faces: Faces, tmp_path: Path) -> None:
    dark = dataclasses.replace(faces, data_hash="dark")
    params = SMALL.replace(batch_norm=False, optimizer="sgd", learning_rate=10.0, initialisation="kaiming", epochs=4)
    run = train(params, dark, tmp_path)
    assert run.state == "diverged"
    assert all((run.folder / name).exists() for name in artifacts.RUN_FILES)


def test_run_at_chance_counts_as_diverged(faces: Faces, tmp_path: Path) -> None:
    run = train(SMALL.replace(learning_rate=1e-9, epochs=1, batch_norm=False), faces, tmp_path)
    assert run.metrics["validation"]["accuracy"] < run.metrics["majority_share"] + 0.02
    assert run.metrics["status"] == run.state == "diverged"


def test_out_of_memory_says_which_batch_would_fit(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(training, "train_step", refuse)
    with pytest.raises(FerError, match="batch_size 8"):
        train(SMALL, faces, tmp_path)


def test_sanity_checks_pass_on_a_healthy_network_and_leave_the_bits_alone(faces: Faces, tmp_path: Path) -> None:
    plain = train(SMALL, faces, tmp_path / "a")
    rows = training.sanity_checks(SMALL.replace(initialisation="kaiming"), faces)
    assert [row["check"] for row in rows if not row["ok"]] == []
    training.sanity_checks(SMALL, faces)
    assert content(train(SMALL, faces, tmp_path / "b")) == content(plain)


@pytest.mark.parametrize("fault", ["labels_out_of_step", "normalised_twice", "same_augmentation"])
def test_one_batch_is_learned_by_heart_whatever_the_fault_of_the_dataset(faces: Faces, fault: str) -> None:
    """As the page on such faults says: the usual check does not find them."""
    rows = training.sanity_checks(SMALL.replace(initialisation="kaiming", data_fault=fault), faces)
    assert next(row for row in rows if row["check"] == "one batch overfits")["ok"]


def test_sanity_checks_find_a_layer_without_gradient(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    build = networks.build

    def frozen(*arguments: Any) -> Any:
        network = build(*arguments)
        next(network.parameters()).requires_grad_(False)
        return network

    monkeypatch.setattr(networks, "build", frozen)
    failed = [row["check"] for row in training.sanity_checks(SMALL, faces) if not row["ok"]]
    assert "gradients" in failed


def test_test_set_is_scored_only_when_asked_and_twice(faces: Faces, tmp_path: Path) -> None:
    copied = dataclasses.replace(faces, copies=np.array([0] * 1 + list(range(1, 119)) + [0], dtype=np.int32))
    run = train(SMALL.replace(epochs=6), copied, tmp_path)
    weights = content(run)["model.safetensors"]
    scored = training.score_test(run, copied)
    assert scored.metrics["test_official"]["n"] == 12
    assert scored.metrics["test_leak_free"]["n"] == 11
    assert (scored.predictions.split == "test").sum() == 12
    assert content(scored)["model.safetensors"] == weights
    assert training.score_test(scored, copied) is scored


def test_test_images_without_labels_are_not_scored(faces: Faces, tmp_path: Path) -> None:
    labels = np.where(faces.usage == 2, 255, faces.labels).astype(np.uint8)
    blind = dataclasses.replace(faces, labels=labels, data_hash="blind")
    run = training.score_test(train(SMALL.replace(epochs=1), blind, tmp_path), blind)
    assert not run.scored
    assert set(run.predictions.split) == {"validation"}


def test_order_of_an_image_depends_on_seed_epoch_and_image_alone(faces: Faces) -> None:
    def order(split_seed: int, epoch: int) -> list[int]:
        session = training.prepare(SMALL, faces, make_split(faces, "random", 0.75, split_seed), "cpu")
        return [int(session.train.rows[place]) for place in training._order(session, epoch, faces.n)]

    one, other = order(0, 1), order(1, 1)
    both = set(one) & set(other)
    assert [row for row in one if row in both] == [row for row in other if row in both]
    assert order(0, 1) != order(0, 2)


def test_last_batch_of_one_image_joins_the_one_before() -> None:
    assert [len(part) for part in training._batches(torch.arange(33), 16)] == [16, 17]
    assert [len(part) for part in training._batches(torch.arange(34), 16)] == [16, 16, 2]


@pytest.mark.parametrize(("classes", "channels", "side"), [(2, 1, 8), (12, 3, 20)])
def test_any_classes_channels_and_size_train(classes: int, channels: int, side: int, tmp_path: Path) -> None:
    faces = make_faces(96, side, classes, channels)
    run = training.score_test(train(SMALL.replace(epochs=1), faces, tmp_path), faces)
    assert len(run.metrics["validation"]["classes"]) == classes
    shown = training.to_input(faces.images[:2], run)
    assert training.load_network(run, faces)(shown).shape == (2, classes)


def test_each_epoch_is_tracked_offline(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Any] = []

    class Tracked:
        def log(self, row: dict[str, float], step: int) -> None:
            rows.append((step, row))

        def finish(self) -> None:
            rows.append("finished")

    import wandb

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "init", lambda **options: Tracked() if options["mode"] == "offline" else None)
    train(SMALL, faces, tmp_path)
    assert [entry[0] for entry in rows[:-1]] == [1, 2, 3]
    assert set(rows[0][1]) == set(artifacts.HISTORY_COLUMNS)
    assert rows[-1] == "finished"


def test_dataset_for_people_gives_float_images_and_labels(faces: Faces) -> None:
    dataset = training.FaceDataset(faces, np.array([3, 5]))
    image, label = dataset[1]
    assert len(dataset) == 2
    assert image.shape == (1, 16, 16)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert label == faces.labels[5]


def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """For fake tensors: weights are made on the GPU at once, as fake ones cannot be moved; backward needs a driver."""
    build = networks.build

    def there(*arguments: Any) -> torch.nn.Module:
        with torch.device("cuda"):
            network = build(*arguments)
        network.to = lambda *_, **__: network
        return network

    monkeypatch.setattr(networks, "build", there)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about fake storage and an autocast without a GPU
@pytest.mark.parametrize("name", networks.names())
def test_training_and_validation_run_on_cuda_tensors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors: no GPU needed, but one on the wrong device raises."""
    on_cuda(monkeypatch)
    faces = make_faces(side=48)
    params = Params(network=name, batch_norm=True, dropout=0.2, dropout_fc=0.2, initialisation="kaiming", threads=1)
    params = params.replace(rotation_degrees=9.0, shift_fraction=0.1, scale_fraction=0.1, mirror_probability=0.5)
    params = params.replace(half_turn_probability=0.5, light_fraction=0.2, erase_pixels=5, erase_probability=0.5)
    params = params.replace(cutmix_alpha=1.0, class_weights=True, precision="bfloat16", gradient_clip=1.0)
    split = make_split(faces, params.split, params.train_fraction, params.split_seed, params.drop_leaked_copies)
    with FakeTensorMode(allow_non_fake_inputs=False):
        session = training.prepare(params, faces, split, "cuda")
        numbers = augment.draw(params, faces.n, 0, 1, "cuda")[torch.from_numpy(session.train.rows)]
        order = training._order(session, 1, faces.n)
        loss, right, _ = training.train_step(session, order[:8], numbers[order[:8]], 1, 0)
        found = training.predict(session.evaluated, session.validation.images, session.scale, params, views=10)
        _, right_too = training.loss_and_right(session, session.clean)
    there = [session.train.images, *session.scale, numbers, order, loss, right, found, right_too]
    assert {tensor.device.type for tensor in there} == {"cuda"}
    assert found.shape == (len(split.validation), 3)


def test_clean_accuracy_is_measured_on_images_from_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CLEAN_IMAGES", 30)
    faces = make_faces()
    split = make_split(faces, "official", 0.75, 0, False)
    train = training.image_set(faces, split.train, "cpu")
    clean = training.clean_part(train)
    assert 20 <= len(clean) <= 30
    assert torch.equal(clean.images[:, 0], torch.from_numpy(faces.images[clean.rows]))
    assert clean.labels.unique().tolist() == [0, 1, 2]


def test_bfloat16_rounds_what_goes_in_and_out_and_adds_up_in_float32() -> None:
    layer = torch.nn.Conv2d(512, 8, 3, padding=1, bias=False)
    torch.nn.init.ones_(layer.weight)
    with devices.autocast("cpu", "bfloat16"):
        out = layer(torch.ones(64, 512, 8, 8).contiguous(memory_format=torch.channels_last))
    assert out.dtype == torch.bfloat16
    assert out[0, 0, 4, 4].item() == 512 * 9  # a sum kept in bfloat16 stands still at 256
    out.float().sum().backward()
    assert layer.weight.grad[0, 0, 1, 1].item() == 64 * 8 * 8
