"""Every epoch's test accuracy beside a training: complete, of the measured weights, and without effect on the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fer_core import artifacts, schema, training, watch
from fer_core.artifacts import Run, Settings
from fer_core.data import Faces
from fer_core.schema import Params

SMALL = Params(width=0.25, epochs=3, batch_size=32, learning_rate=0.005, threads=1, precision="float32")
WATCHED = dataclasses.replace(SMALL, score_test=True, test_by_epoch=True)


def trained(params: Params, place: Settings, faces: Faces, folder: str = "out") -> Run:
    settings = dataclasses.replace(place, out=place.out / folder)
    return training.train_or_load(params, settings, faces, watch.watching(params, settings, faces))


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"batch_norm": True}])
def test_the_last_row_is_what_the_test_scores_and_the_run_has_the_same_bytes(
    place: Settings, faces: Faces, changes: dict[str, Any]
) -> None:
    watched = dataclasses.replace(WATCHED, **changes)
    run = trained(watched, place, faces)
    table = pd.read_csv(run.folder / watch.FILE)
    assert tuple(table.columns) == watch.COLUMNS and list(table["epoch"]) == [1, 2, 3]
    plain = trained(dataclasses.replace(watched, test_by_epoch=False), place, faces, "plain")
    assert not (plain.folder / watch.FILE).exists()
    for name in ("model.safetensors", "history.csv", "metrics.json"):
        assert (run.folder / name).read_bytes() == (plain.folder / name).read_bytes()
    scored = training.score_test(run, faces).metrics
    for part in ("test_official", "test_leak_free"):
        assert table[f"{part}_accuracy"].iloc[-1] == pytest.approx(scored[part]["accuracy"])


def test_a_row_that_a_kill_kept_out_is_measured_when_the_training_goes_on(place: Settings, faces: Faces) -> None:
    whole = trained(WATCHED, place, faces)

    def killed_after(epoch: int, folder: str) -> Path:
        settings = dataclasses.replace(place, out=place.out / folder)
        watched = watch.watching(WATCHED, settings, faces)

        def heard(row: dict[str, Any]) -> None:
            if row.get("epoch") == epoch:
                raise KeyboardInterrupt
            watched(row)

        with pytest.raises(KeyboardInterrupt):
            training.train_or_load(WATCHED, settings, faces, heard)
        return trained(WATCHED, place, faces, folder).folder

    for epoch in (1, 2, 3):
        assert (killed_after(epoch, f"{epoch}") / watch.FILE).read_bytes() == (whole.folder / watch.FILE).read_bytes()


def test_a_gpu_that_this_torch_cannot_compute_on_is_told_with_its_remedy(
    place: Settings, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.devices, "resolve", lambda params, _: (params, "cuda"))
    monkeypatch.setattr(watch.torch.cuda, "is_available", lambda: False)
    with pytest.raises(schema.FerError, match="use DEVICE=cpu"):
        watch.train_or_load(SMALL, place, faces)


def test_nothing_is_written_where_the_page_may_not_look_at_the_test(place: Settings, faces: Faces) -> None:
    run = trained(dataclasses.replace(WATCHED, score_test=False), place, faces)
    assert not (run.folder / watch.FILE).exists()


def test_the_ablations_runs_do_not_watch() -> None:
    page = schema.resolve_page(schema.load_page("07_beyond/default"), False)
    assert page.test_by_epoch
    assert not any(run.test_by_epoch for runs in schema.ablation_runs(page, False).values() for run in runs)


def test_it_is_no_part_of_a_runs_key() -> None:
    assert artifacts.run_key(SMALL, "d", "cpu").key == artifacts.run_key(WATCHED, "d", "cpu").key
