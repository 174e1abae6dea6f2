"""Sweeps: strict definitions, the same trials however they were run, nothing seen of the test images, a whole page."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from sqlalchemy import event
from sqlalchemy.engine import Engine

from fer_core import artifacts, build, data, devices, publish, report, schema, sweep, training
from fer_core.artifacts import Settings, run_folder, run_key
from fer_core.data import PRIVATE, Faces
from fer_core.schema import ROOT, FerError, ParameterError, Params

from .conftest import make_faces

TINY = """# a sweep of the tests
page: 01_basic_cnn/default
set: {width: 0.25, epochs: 4, batch_size: 16, batch_norm: true, precision: float32}
ranges:
  learning_rate: {low: 0.0001, high: 0.05, log: true}
  dropout: {choices: [0.0, 0.2]}
budget: {trials: 7}
sampler: {startup_trials: 3}
pruner: {startup_trials: 2, warmup_epochs: 1}
side_by_side: 2
"""


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., sweep.Sweep]:
    """Loads a definition from its text."""
    monkeypatch.setattr(sweep, "SWEEPS", tmp_path / "sweeps")

    def defined(text: str = TINY, name: str = "tiny") -> sweep.Sweep:
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(text)
        return sweep.load(name)

    return defined


def write_pictures(folder: Path, test_seed: int = 0) -> Path:
    """The small data set as class folders; `test_seed` gives other test images."""
    faces, other = make_faces(n=150), make_faces(n=150, seed=test_seed)
    for i, (label, usage) in enumerate(zip(faces.labels, faces.usage, strict=True)):
        part, images = ("test", other.images) if usage == PRIVATE else ("train", faces.images)
        path = folder / part / faces.classes[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(path)
    return folder


# -- definitions


def test_the_committed_sweeps_are_sound_and_are_no_pages() -> None:
    assert sweep.names()
    for name in sweep.names():
        loaded = sweep.load(name)
        assert set(sweep.distributions(loaded)) == set(loaded.ranges)
    assert not any("sweeps" in page for page in schema.page_names())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("budget:", "bugdet:"), r"unknown key bugdet; did you mean budget\?"),
        (("trials: 7", "trails: 7"), r"budget: unknown key trails; did you mean trials\?"),
        (("trials: 7", "trials: many"), "budget: trials is the text 'many', expected a whole number"),
        (("trials: 7", "trials: 0"), "budget: trials is 0, expected at least 1"),
        (("01_basic_cnn/default", "01_basic_cnn/defalt"), r"did you mean 01_basic_cnn/default\?"),
        (("01_basic_cnn/default", "05_analysis/depth"), "05_analysis/depth trains no network of its own"),
        (("01_basic_cnn/default", "00_exploration/default"), "trains no network of its own"),
        (("  learning_rate:", "  learning_rte:"), r"no range over learning_rte; did you mean learning_rate\?"),
        (("  learning_rate:", "  seed:"), "no range over seed"),
        (("  learning_rate:", "  epochs:"), "epochs stands in set and in ranges"),
        (("high: 0.05", "hihg: 0.05"), r"learning_rate has an unknown key hihg; did you mean high\?"),
        (("high: 0.05", "high: 50.0"), "high of learning_rate: learning_rate is 50.0, expected at most 10"),
        (("high: 0.05", "high: 1e-1"), "write 0.1"),
        (("high: 0.05", "high: 0.00001"), "expected low below high"),
        (("low: 0.0001", "low: 0.0"), "expected above 0"),
        (("log: true", "log: 1"), "log of learning_rate is 1, expected true or false"),
        (("log: true", "step: 2"), "it goes with whole numbers"),
        (("choices: [0.0, 0.2]", "choices: [0.2]"), "dropout needs two choices or more"),
        (("choices: [0.0, 0.2]", "choices: [0.2, 0.2]"), "stands twice"),
        (("choices: [0.0, 0.2]", "choices: [0.2, 1.2]"), "dropout is 1.2, expected at most 0.95"),
        (("choices: [0.0, 0.2]", "low: 0.1, log: true"), "dropout needs low and high, or choices"),
        (("  dropout: {choices: [0.0, 0.2]}", "  optimizer: {low: 0, high: 1}"), "optimizer has no range of numbers"),
        (("  dropout: {choices: [0.0, 0.2]}", "  optimizer: {choices: [adam, sdg]}"), r"did you mean sgd\?"),
        (("epochs: 4", "epochs: four"), "epochs is the text 'four'"),
        (("side_by_side: 2", "side_by_side: 2\nobjective: test_accuracy"), r"did you mean validation_accuracy\?"),
        (("side_by_side: 2", "seeds: [0, 0]"), "a seed stands in it twice"),
        (("side_by_side: 2", "side_by_side: 2\nside_by_side: 3"), "side_by_side stands twice"),
    ],
)
def test_a_faulty_definition_is_refused_in_one_sentence(define: Any, change: tuple[str, str], sentence: str) -> None:
    assert change[0] in TINY
    with pytest.raises(ParameterError, match=sentence) as refused:
        define(TINY.replace(*change))
    assert str(refused.value).startswith(("params/sweeps/tiny.yaml", "tiny.yaml, line 11", "no page"))


def test_a_definition_without_ranges_is_refused(define: Any) -> None:
    with pytest.raises(ParameterError, match="ranges is missing"):
        define("page: 01_basic_cnn/default\n")


def test_an_unknown_sweep_is_refused_with_the_nearest_name() -> None:
    words = [sys.executable, "-m", "fer_core", "sweep", "complex_cnn_rate_dropuot"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean complex_cnn_rate_dropout?" in done.stderr and "Traceback" not in done.stderr


def test_set_may_not_touch_what_is_swept(define: Any, place: Settings) -> None:
    with pytest.raises(ParameterError, match="SET: dropout is the sweep's own"):
        sweep.base_params(define(), dataclasses.replace(place, set_values={"dropout": 0.1}))


def test_the_samples_ceilings_lie_below_the_ranges(define: Any, place: Settings) -> None:
    base = sweep.base_params(define(), place)
    assert base.epochs == schema.sample_ceilings()["epochs"]
    assert sweep.trial_runs(base, {"learning_rate": 0.05, "dropout": 0.2})[0].learning_rate == 0.05
    assert base.learning_rate <= schema.sample_ceilings()["learning_rate"]


# -- the search, with workers that compute a score instead of training


def score(params: Params, epoch: int) -> float:
    return 0.9 - abs(np.log10(params.learning_rate) + 2.5) / 5 - 0.2 / epoch - params.dropout / 10


class Thought:
    """Stands in for a worker: a thread that answers as one would, after a while that differs every time."""

    lives = 10**9  # messages until it dies

    def __init__(self, *_: Any) -> None:
        self.connection, self.theirs = Pipe()
        self.trial: int | None = None
        self.process = SimpleNamespace(exitcode=-9)
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def answer(self) -> None:
        try:
            while True:
                self.work(self.theirs.recv())
        except (EOFError, OSError):
            self.theirs.close()

    def work(self, runs: list[Params]) -> None:
        epochs = runs[0].epochs
        outcome: dict[str, Any] = {"state": "complete", "scores": [score(runs[0], epochs)], "epochs": [epochs]}
        for epoch in range(1, epochs + 1):
            time.sleep(random.random() / 500)
            if type(self).lives <= 0:
                raise EOFError
            type(self).lives -= 1
            self.theirs.send(("epoch", epoch, score(runs[0], epoch)))
            if self.theirs.recv():
                outcome = {"state": "pruned", "scores": [], "epochs": [epoch]}
                break
        more = {"status": ["done"], "low": 0.1, "high": 0.2, "n": 100, "seconds": 36.0}
        self.theirs.send(("end", {**outcome, **more}))

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def thought(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Thought]]:
    worker = type("Worker", (Thought,), {})
    monkeypatch.setattr(sweep, "Hand", worker)
    monkeypatch.setattr(data, "data_hash", lambda *_: "hash")
    event.listen(Engine, "connect", _unhurried)
    yield worker
    event.remove(Engine, "connect", _unhurried)


def _unhurried(connection: Any, _: Any) -> None:
    """SQLite without waiting for the disk: thousands of commits, and no machine fails here."""
    connection.execute("PRAGMA synchronous=OFF")


def real(tmp_path: Path, folder: str) -> Settings:
    return Settings(tmp_path, "small", "cpu", tmp_path / folder)


def searched(defined: sweep.Sweep, settings: Settings, jobs: int = 1) -> tuple[bytes, sweep.Search]:
    search = sweep.Search(defined, settings)
    search.run(jobs)
    return sweep.trials_csv(defined, sweep.rows(search)), search


LONGER = TINY.replace("trials: 7", "trials: 12").replace("side_by_side: 2", "side_by_side: 3")


def test_the_same_trials_come_out_whatever_jobs(define: Any, thought: Any, tmp_path: Path) -> None:
    defined = define(LONGER)
    found = {searched(defined, real(tmp_path, f"jobs{jobs}"), jobs)[0] for jobs in (1, 3, 7)}
    assert len(found) == 1
    states = [row["state"] for row in csv.DictReader(found.pop().decode().splitlines())]
    assert len(states) == 12 and {"complete", "pruned"} == set(states)


def test_a_sweep_killed_at_random_moments_ends_with_the_same_trials(
    define: Any, thought: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined = define(LONGER)
    whole, _ = searched(defined, real(tmp_path, "whole"), 3)
    chance, kills = random.Random(0), 0
    hear = sweep.Search._hear

    def killed(search: Any, hand: Any) -> None:
        if chance.random() < 0.12:
            raise KeyboardInterrupt
        hear(search, hand)

    monkeypatch.setattr(sweep.Search, "_hear", killed)
    for _ in range(200):
        try:
            found, _ = searched(defined, real(tmp_path, "killed"), 3)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills > 3
    assert found == whole


def test_another_sampler_seed_gives_other_trials(define: Any, thought: Any, tmp_path: Path) -> None:
    first, second = (
        searched(define(TINY.replace("sampler: {", f"sampler: {{seed: {seed}, ")), real(tmp_path, str(seed)))[0]
        for seed in (0, 1)
    )
    assert first != second


def test_a_larger_budget_goes_on_with_the_trials_there_are(define: Any, thought: Any, tmp_path: Path) -> None:
    whole, _ = searched(define(LONGER), real(tmp_path, "whole"))
    searched(define(LONGER.replace("trials: 12", "trials: 5")), real(tmp_path, "grown"))
    thought.lives = 7 * 4  # enough for the other trials alone
    assert searched(define(LONGER), real(tmp_path, "grown"))[0] == whole


def test_other_ranges_begin_a_study_of_their_own(define: Any, thought: Any, tmp_path: Path) -> None:
    _, before = searched(define(), real(tmp_path, "out"))
    _, after = searched(define(TINY.replace("high: 0.05", "high: 0.04")), real(tmp_path, "out"))
    assert before.key != after.key
    assert all(row.values["learning_rate"] <= 0.04 for row in sweep.rows(after))
    assert len(sweep.rows(after)) == 7


def test_the_search_finds_where_scores_are_high(define: Any, thought: Any, tmp_path: Path) -> None:
    defined = define(LONGER)
    _, search = searched(defined, real(tmp_path, "out"))
    best = sweep.best_of(sweep.rows(search), defined.objective)
    assert best is not None and 0.001 < best.values["learning_rate"] < 0.01
    assert sweep.importance(search, sweep.rows(search))["learning_rate"] > 0.5


def test_the_first_trial_is_the_base_pages_own_values_where_the_ranges_hold_them(
    define: Any, thought: Any, tmp_path: Path
) -> None:
    own = schema.notebook_defaults("01_basic_cnn")
    _, search = searched(define(), real(tmp_path, "in"))
    assert sweep.rows(search)[0].values == {"learning_rate": own["learning_rate"], "dropout": 0.0}
    _, search = searched(define(TINY.replace("high: 0.05", "high: 0.002")), real(tmp_path, "out"))
    assert sweep.rows(search)[0].values["learning_rate"] <= 0.002


def test_no_pruner_gives_no_trial_up(define: Any, thought: Any, tmp_path: Path) -> None:
    text = LONGER.replace("pruner: {startup_trials: 2, warmup_epochs: 1}", "pruner: {kind: none}")
    _, search = searched(define(text), real(tmp_path, "out"))
    assert {row.state for row in sweep.rows(search)} == {"complete"}


def test_no_trial_starts_after_the_hours_are_spent(define: Any, thought: Any, tmp_path: Path) -> None:
    defined = define(TINY.replace("trials: 7", "trials: 7, hours: 0.025"))  # a trial counts 36 s
    _, search = searched(defined, real(tmp_path, "out"))
    assert len(sweep.rows(search)) == 3
    assert "0.025 hours of training were spent" in sweep._how(search)


def test_a_worker_that_dies_once_loses_nothing(define: Any, thought: Any, tmp_path: Path) -> None:
    whole, _ = searched(define(), real(tmp_path, "whole"))

    class Once(Thought):
        lives = 6
        born = 0

        def __init__(self, *_: Any) -> None:
            Once.born += 1
            Once.lives = 6 if Once.born == 1 else 10**9
            super().__init__()

    sweep.Hand = Once  # type: ignore[misc,assignment]  # the fixture puts it back
    assert searched(define(), real(tmp_path, "died"))[0] == whole
    assert Once.born == 2


def test_a_worker_that_dies_twice_over_a_trial_makes_it_failed_and_the_others_go_on(
    define: Any, thought: Any, tmp_path: Path
) -> None:
    class Fragile(Thought):
        def work(self, runs: list[Params]) -> None:
            if runs[0].dropout:
                raise EOFError
            super().work(runs)

    sweep.Hand = Fragile  # type: ignore[misc,assignment]
    _, search = searched(define(), real(tmp_path, "out"))
    found = sweep.rows(search)
    assert {row.state for row in found if row.values["dropout"]} == {"failed"}
    assert all(row.score for row in found if not row.values["dropout"] and row.state == "complete")
    assert "twice" in next(row.reason for row in found if row.state == "failed")


def test_a_sweep_that_runs_already_is_said(define: Any, thought: Any, tmp_path: Path) -> None:
    search = sweep.Search(define(), real(tmp_path, "out"))
    with FileLock(search.path.with_suffix(".lock")), pytest.raises(FerError, match="running already"):
        search.run(1)


# -- a trial's training

SMALL = Params(width=0.25, batch_norm=True, epochs=3, batch_size=16, learning_rate=0.01, threads=1, precision="float32")


def trained(runs: list[Params], faces: Faces, place: Settings, tell: Any = lambda *_: False, **more: Any) -> dict:
    found = sweep.train(runs, "validation_accuracy", place, faces, tell, **more)
    del found["seconds"]
    return found


def test_a_trial_tells_each_epoch_once_and_scores_its_kept_epoch(faces: Faces, place: Settings) -> None:
    told: list[tuple[int, float]] = []
    found = trained([SMALL], faces, place, lambda *row: told.append(row) or False)
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert found["state"] == "complete" and found["scores"] == [pytest.approx(told[-1][1])]


def test_the_score_is_one_a_seed(faces: Faces, place: Settings) -> None:
    found = trained([SMALL, SMALL.replace(seed=1)], faces, place)
    assert len(found["scores"]) == 2 and found["epochs"] == [3, 3]


def test_a_trial_given_up_stops_there_and_its_checkpoint_stands(faces: Faces, place: Settings) -> None:
    found = trained([SMALL, SMALL.replace(seed=1)], faces, place, lambda epoch, _: epoch == 2)
    assert (found["state"], found["epochs"], found["scores"]) == ("pruned", [2], [])
    assert len(list(place.store.rglob("checkpoint.pt"))) == 1 and not list(place.store.rglob("run.json"))


@pytest.mark.parametrize("given_up_at", [None, 1, 2])
def test_a_trial_cut_off_and_taken_up_tells_the_same(
    faces: Faces, place: Settings, tmp_path: Path, given_up_at: int | None
) -> None:
    def telling(told: list[Any]) -> Any:
        return lambda *row: told.append(row) or row[0] == given_up_at

    whole_told: list[Any] = []
    whole = trained([SMALL], faces, dataclasses.replace(place, out=tmp_path / "whole"), telling(whole_told))
    steps = iter(range(10**6))
    batches = -(-len(data.make_split(faces).train) // 16)
    with pytest.raises(training.Stopped):  # within the third epoch: two are in the checkpoint, told to nobody
        trained([SMALL], faces, place, stop=lambda: next(steps) > 2 * batches + 1)
    told: list[Any] = []
    assert trained([SMALL], faces, place, telling(told)) == whole
    assert told == whole_told


def test_a_run_that_was_there_already_is_judged_like_a_trained_one(faces: Faces, place: Settings) -> None:
    training.train_or_load(SMALL, place, faces)
    assert trained([SMALL], faces, place, lambda epoch, _: epoch == 2)["state"] == "pruned"
    assert trained([SMALL], faces, place)["state"] == "complete"


# -- test images


class Guarded(np.ndarray):
    """Images that may not be read from a certain row on."""

    first_hidden: int

    def __getitem__(self, key: Any) -> Any:
        rows = np.arange(len(self))[key[0] if isinstance(key, tuple) else key]
        assert not (np.asarray(rows) >= self.first_hidden).any(), "a test image was read"
        return np.asarray(self)[key]


def guarded(faces: Faces) -> Faces:
    images = faces.images.copy().view(Guarded)
    images.first_hidden = int(np.flatnonzero(faces.usage == PRIVATE)[0])
    return dataclasses.replace(faces, images=images)


def test_no_test_image_is_read_by_a_trial_and_none_is_scored(faces: Faces, place: Settings) -> None:
    watched = guarded(faces)
    trained([SMALL], watched, place)
    resolved, device = devices.resolve(SMALL, "cpu")
    run = artifacts.Run(key := run_key(resolved, faces.data_hash, device).key, SMALL, run_folder(place.store, key))
    assert not [name for name in run.metrics if name.startswith("test")]
    assert set(run.predictions.split) == {"validation"}
    with pytest.raises(AssertionError, match="a test image was read"):  # the guard does guard
        training.score_test(run, watched)


def test_workers_get_test_images_blank_and_blanking_reads_none(faces: Faces) -> None:
    blank = sweep.without_test_images(guarded(faces))
    hidden = faces.usage == PRIVATE
    assert not blank.images[hidden].any() and faces.images[hidden].any()
    assert (blank.images[~hidden] == faces.images[~hidden]).all()
    assert blank.data_hash == faces.data_hash


def test_what_a_worker_trains_on_has_blank_test_images(
    faces: Faces, place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Faces] = []

    class Way:
        """A connection on which one trial comes and then the parent is gone."""

        messages = iter([[SMALL]])
        sent: list[Any] = []  # noqa: RUF012

        def recv(self) -> Any:
            try:
                return next(self.messages)
            except StopIteration:
                raise EOFError from None

        def send(self, message: Any) -> None:
            self.sent.append(message)

    def watch(params: Any, settings: Any, images: Faces, *_: Any) -> None:
        seen.append(images)
        raise FerError("seen enough")

    monkeypatch.setattr(data, "open_faces", lambda *_: faces)
    monkeypatch.setattr(training, "train_or_load", watch)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    sweep.serve(Way(), place, "validation_accuracy", tmp_path / "log")  # type: ignore[arg-type]
    assert Way.sent == [("end", {"state": "failed", "reason": "seen enough"})]
    assert len(seen) == 1 and not seen[0].images[faces.usage == PRIVATE].any()


# -- a whole one, with workers


def test_a_question_of_several_lines_is_a_heading_and_no_markup(define: Any) -> None:
    asked = dataclasses.replace(define(), question="Which rate?\n\n<script>alert(1)</script>")
    assert sweep.title(asked) == "Which rate? <script>alert(1)</script>"


def test_an_engine_s_hand_whose_thread_died_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Faces:
        raise schema.DataError("gone")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(data, "open_faces", broken)
    sender = sweep.Sender(real(tmp_path, "gone"), "validation_accuracy", SimpleNamespace())  # type: ignore[arg-type]
    assert sender.connection.poll(10)
    with pytest.raises(EOFError):
        sender.connection.recv()
    sender.close()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real sweep over small pictures, two workers."""
    place = tmp_path_factory.mktemp("swept")
    (place / "sweeps").mkdir()
    (place / "sweeps/tiny.yaml").write_text(TINY)
    settings = Settings(write_pictures(place / "pictures"), "small", "cpu", place / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "SWEEPS", place / "sweeps")
        patch.setenv("WANDB_MODE", "disabled")
        status = sweep.sweep(settings, "tiny", 2)
        search = sweep.Search(sweep.load("tiny"), settings)
        yield SimpleNamespace(settings=settings, status=status, search=search, found=sweep.rows(search), place=place)


def test_a_sweep_leaves_a_page_and_its_trials(swept: Any) -> None:
    assert swept.status == 0
    folder = swept.settings.reports / "sweeps"
    table = list(csv.DictReader((folder / "tiny/trials.csv").read_text().splitlines()))
    columns = ["trial", "state", "learning_rate", "dropout", "validation_accuracy", "epochs", "training_keys", "reason"]
    assert list(table[0]) == columns and len(table) == 7
    assert any(row.state == "pruned" for row in swept.found)
    html = (folder / "tiny.html").read_text()
    best = sweep.best_of(swept.found, "validation_accuracy")
    assert best is not None and f"trial {best.trial} has the best validation accuracy" in report.plain(html)
    assert html.count("<img ") == 3 and "most of them the same" in html  # all whole trials reach 100 %: no best quarter
    assert str(swept.place) not in html and "http://" not in re.sub(r'href="http[^"]*"', "", html)


class Elsewhere:
    """An engine, in this process."""

    slots = in_flight = 2

    def __init__(self, settings: Settings) -> None:
        self.settings, self.done, self.closed, self.lock = settings, list[str](), False, threading.Lock()

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.done.append(message["key"])
            return build.perform(message, self.settings, threading.Event())

    def close(self) -> None:
        self.closed = True


def elsewhere(swept: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(sweep, "SWEEPS", swept.place / "sweeps")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return dataclasses.replace(swept.settings, out=out)


def test_an_engine_trains_the_same_trials(swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = elsewhere(swept, tmp_path, monkeypatch)
    engine = Elsewhere(settings)
    assert sweep.sweep(settings, "tiny", 1, lambda _: engine) == 0
    there, here = ((s.reports / "sweeps/tiny/trials.csv").read_bytes() for s in (settings, swept.settings))
    assert there == here
    assert engine.closed and sorted(engine.done) == sorted(" ".join(row.training_keys for row in swept.found).split())


@pytest.mark.parametrize("fault", ["an answer", "an exception", "another device"])
def test_a_trial_that_the_engine_could_not_train_failed(
    swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    settings = elsewhere(swept, tmp_path, monkeypatch)
    engine = Elsewhere(settings)
    answers = {"an answer": {"error": "no machine"}, "another device": {"state": "done", "key": "k"}}
    monkeypatch.setattr(engine, "do", lambda message: answers.get(fault) or 1 / 0)
    assert sweep.sweep(settings, "tiny", 1, lambda _: engine) == 1
    reasons = {row.reason for row in sweep.rows(sweep.Search(sweep.load("tiny"), settings))}
    told = {"an answer": "no machine", "an exception": "ZeroDivisionError", "another device": "than cpu"}[fault]
    assert len(reasons) == 1 and told in reasons.pop()


def test_the_page_may_be_published_as_it_is(swept: Any, tmp_path: Path) -> None:
    """It names no machine; it goes with the page that it varies, and one that was published before stays."""
    html = (swept.settings.reports / "sweeps/tiny.html").read_text()
    record = next(row for row in swept.found if row.state == "complete")
    run = artifacts.read_json(run_folder(swept.settings.store, record.training_keys) / "run.json")
    assert run["host"] and f">{run['host']}<" not in html and ">host<" not in html and run["commit"] in html
    published = publish._published_sweeps(swept.settings.reports, [swept.search.sweep.page], tmp_path)
    assert [told["href"] for told in published] == ["sweeps/tiny.html"]
    assert (tmp_path / "sweeps/tiny.html").read_text() == html and (tmp_path / "sweeps/tiny/trials.csv").exists()
    assert publish._published_sweeps(tmp_path / "nothing", [swept.search.sweep.page], tmp_path) == published
    assert publish._published_sweeps(tmp_path / "nothing", ["02_batch_norm/default"], tmp_path) == []
    assert not list((tmp_path / "sweeps").iterdir())


def test_the_runs_lie_in_the_one_store_under_their_own_keys(swept: Any) -> None:
    for row in swept.found:
        folder = run_folder(swept.settings.store, row.training_keys)
        if row.state == "pruned":
            assert (folder / "checkpoint.pt").exists() and not (folder / "run.json").exists()
        else:
            metrics = artifacts.read_json(folder / "metrics.json")
            assert metrics["validation"]["accuracy"] == row.score
            assert not [name for name in metrics if name.startswith("test")]


def test_the_command_for_the_best_run_asks_for_that_very_run(swept: Any) -> None:
    best = sweep.best_of(swept.found, "validation_accuracy")
    assert best is not None
    html = (swept.settings.reports / "sweeps/tiny.html").read_text()
    command = re.search(r"make report PAGE=01_basic_cnn/default [^<]*SET='([^<]*)'", unescape(html))
    assert command
    values = schema.parse_set(command[1])
    page = schema.load_page("01_basic_cnn/default")
    params = schema.resolve_page(page, False, values)
    assert not params.score_test
    (run,) = schema.page_runs(page, params, False, values)[page.name]
    resolved, device = devices.resolve(dataclasses.replace(run, threads=1), "cpu")
    assert run_key(resolved, swept.search.data_hash, device).key == best.training_keys


def test_a_second_call_trains_nothing_and_writes_the_same_bytes(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = swept.settings.reports / "sweeps/tiny.html"
    before = page.read_bytes()
    monkeypatch.setattr(sweep, "Hand", lambda *_: pytest.fail("a worker was started"))
    assert sweep.sweep(swept.settings, "tiny", 2) == 0
    assert page.read_bytes() == before


@pytest.mark.slow
def test_other_test_images_change_nothing_but_the_keys(swept: Any, tmp_path: Path) -> None:
    other = Settings(write_pictures(tmp_path / "pictures", test_seed=5), "small", "cpu", tmp_path / "out")
    search = sweep.Search(sweep.load("tiny"), other)
    assert search.data_hash != swept.search.data_hash
    search.run(2)
    assert [(row.values, row.state, row.curve, row.score) for row in sweep.rows(search)] == [
        (row.values, row.state, row.curve, row.score) for row in swept.found
    ]


SCRIPT = """
import sys
from pathlib import Path
from fer_core import artifacts, sweep
place = Path(sys.argv[1])
sweep.SWEEPS = place / "sweeps"
sys.exit(sweep.sweep(artifacts.Settings(place / "pictures", "small", "cpu", Path(sys.argv[2])), "tiny", 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_a_sweep_killed_in_mid_training_goes_on_to_the_same_trials(swept: Any, tmp_path: Path, victim: str) -> None:
    words = [sys.executable, "-c", SCRIPT, str(swept.place), str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 180
        while not list(tmp_path.rglob("checkpoint.pt")):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        if victim == "parent":
            running.kill()
            running.wait()
            assert subprocess.run(words, cwd=ROOT, capture_output=True).returncode == 0
        else:
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(int(workers[0]), signal.SIGKILL)
            assert running.wait(180) == 0
            assert running.stderr is not None and "its process ended with -9" in running.stderr.read()
    again, first = (out / "reports/small/sweeps/tiny/trials.csv" for out in (tmp_path, swept.settings.out))
    assert again.read_bytes() == first.read_bytes()
