"""Many short trainings over ranges of parameters: params/sweeps/<name>.yaml in, one page and trials.csv out.

The parent process asks Optuna for values and keeps its SQLite storage; workers, a process each, train through the one
`train_or_load` and tell every epoch's validation score, upon which the parent says whether to go on. Trial n is chosen
from the results of trials up to n − side_by_side and from nothing else, so JOBS, kills and who ended first change
nothing. Workers get the images with the test images blank: a sweep decides on validation and cannot see them.
With an engine (ENGINE=) the runs are trained there, and end the same.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fer_core import artifacts, build, data, devices, report, schema
from fer_core.artifacts import Run, Settings, digest, run_folder, run_key
from fer_core.data import PRIVATE, Faces
from fer_core.schema import ROOT, RUN_PARAMETERS, SPECS, FerError, ParameterError, Params, nearest, percent

SWEEPS = ROOT / "params" / "sweeps"
SAMPLE_TRIALS = 8  # at most, on drawn data: enough for every part of the page
NOT_SWEPT = ("seed", "threads", "precision")  # how a run is computed, not what is asked
DIRECTIONS: dict[str, Any] = {"validation_accuracy": "maximize", "validation_loss": "minimize"}
METRICS = {"validation_accuracy": "accuracy", "validation_loss": "loss"}
TOP_SHARE = 0.25  # importance is a parameter's part in reaching the best quarter
FEW_TRIALS = 4  # fewer have no best quarter
ENOUGH_TRIALS = 20  # of fewer their parameters' parts are a hint and no more
GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # raised where the other end of a connection is no more


# ---------------------------------------------------------------------------------------------------------- definition


def _is(default: Any, kind: type, about: str, **limits: Any) -> Any:
    return schema._is(default, "sweep", kind, about, **limits)


@dataclass(frozen=True)
class Budget:
    """When a sweep ends: after so many trials, or once its trainings have taken so many hours, all added up."""

    trials: int = _is(20, int, "how many sets of values are tried", low=1, high=10_000)
    hours: float | None = _is(None, float, "no trial starts after so many hours of training", above=0, optional=True)


@dataclass(frozen=True)
class Sampler:
    """Where a trial's values come from: the first trials at random, then TPE (arXiv:2304.11127), or all at random."""

    kind: str = _is("tpe", str, "how values are chosen", choices=("tpe", "random"))
    seed: int = _is(0, int, "seed of the choice", low=0)
    startup_trials: int = _is(5, int, "trials at random before TPE", low=1)


@dataclass(frozen=True)
class Pruner:
    """When a trial is given up: once its best score so far is below the median of earlier trials at that epoch."""

    kind: str = _is("median", str, "whether trials are given up", choices=("median", "none"))
    startup_trials: int = _is(4, int, "whole trials before any is given up", low=1)
    warmup_epochs: int = _is(2, int, "epochs that every trial gets", low=1)


@dataclass(frozen=True)
class Range:
    """What a parameter is tried at: from low to high (by log, or in steps), or one of the choices."""

    low: Any = None  # a number wherever there are no choices
    high: Any = None
    log: bool = False
    step: int | None = None
    choices: tuple[Any, ...] = ()

    def holds(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if value is None or not self.low <= value <= self.high:
            return False
        return (value - self.low) % self.step == 0 if self.step else True

    def shortened(self, value: Any) -> Any:
        """Three digits of a real number, inside the range: what a reader can type, and no worse."""
        if self.choices or not isinstance(value, float):
            return value
        return min(max(float(f"{value:.3g}"), self.low), self.high)


@dataclass(frozen=True)
class Sweep:
    """One file of params/sweeps."""

    name: str
    page: str = _is("", str, "the base page")
    question: str = _is("", str, "what is asked")
    set: dict[str, Any] = _is({}, dict, "what differs from the base page in every trial")
    ranges: dict[str, Range] = _is({}, dict, "parameter: {low, high, log, step} or {choices}")
    seeds: tuple[int, ...] = _is((0,), list, "a trial's runs; the score is their mean")
    budget: Budget = _is(Budget(), dict, "trials and hours")
    objective: str = _is("validation_accuracy", str, "what is sought", choices=tuple(DIRECTIONS))
    sampler: Sampler = _is(Sampler(), dict, "where values come from")
    pruner: Pruner = _is(Pruner(), dict, "when a trial is given up")
    side_by_side: int = _is(4, int, "trials that may be under way together; JOBS above it are idle", low=1, high=1024)


def names() -> list[str]:
    """The sweeps there are."""
    return sorted(file.stem for file in SWEEPS.glob("*.yaml"))


def load(name: str) -> Sweep:
    """The sweep of that name, checked.

    Raises
    ------
    ParameterError: no such sweep, an unknown key (with the nearest known one), a wrong type, a value out of range.
    """
    if name not in names():
        near = nearest(name, names()) or f": it would be a file params/sweeps/{name}.yaml"
        raise ParameterError(f"no sweep {name}{near}")
    where = f"params/sweeps/{name}.yaml"
    values = _checked(Sweep, schema.load_yaml(SWEEPS / f"{name}.yaml"), where)
    for needed in ("page", "ranges"):
        if not values.get(needed):
            raise ParameterError(f"{where}: {needed} is missing: a sweep needs a base page and ranges.")
    page = schema.load_page(values["page"])
    known = [name for name in schema.notebook_parameters(page.notebook) if name in RUN_PARAMETERS]
    if "learning_rate" not in known or page.values.get("arms"):
        raise ParameterError(f"{where}: {page.name} trains no network of its own: name a training page.")
    values["set"] = schema.check(values.get("set", {}), f"{where}, set", known)
    ranges = {}
    for parameter, stated in values["ranges"].items():
        if parameter not in known or parameter in NOT_SWEPT:
            raise ParameterError(f"{where}: no range over {parameter}{nearest(str(parameter), known)}")
        if parameter in values["set"]:
            raise ParameterError(f"{where}: {parameter} stands in set and in ranges; delete one.")
        ranges[parameter] = _range(parameter, stated, f"{where}, ranges")
    values["seeds"] = schema.check_value("seeds", values.get("seeds", (0,)), where)
    for part, kind in (("budget", Budget), ("sampler", Sampler), ("pruner", Pruner)):
        values[part] = kind(**_checked(kind, values.get(part, {}), f"{where}, {part}"))
    return Sweep(name, **{**values, "ranges": ranges})


def _checked(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` by the specs of a dataclass's fields."""
    specs = {f.name: f.metadata["spec"] for f in dataclasses.fields(kind) if "spec" in f.metadata}
    for name, value in values.items():
        if name not in specs:
            raise ParameterError(f"{where}: unknown key {name}{nearest(str(name), specs)}")
        if not (value is None and specs[name].optional):
            schema.check_spec(name, value, specs[name], where)
    return dict(values)


def _range(name: str, stated: Any, where: str) -> Range:
    known = {f.name for f in dataclasses.fields(Range)}
    if not isinstance(stated, dict):
        raise ParameterError(f"{where}: {name} is {stated!r}, expected {{low: …, high: …}} or {{choices: […]}}.")
    for key in stated:
        if key not in known:
            raise ParameterError(f"{where}: {name} has an unknown key {key}{nearest(str(key), known)}")
    if "choices" in stated:
        if set(stated) != {"choices"} or not isinstance(stated["choices"], list) or len(stated["choices"]) < 2:
            raise ParameterError(f"{where}: {name} needs two choices or more, and nothing beside them.")
        choices = tuple(schema.check_value(name, value, where) for value in stated["choices"])
        if len(set(choices)) < len(choices):
            raise ParameterError(f"{where}: {name} has a choice that stands twice; delete one.")
        return Range(choices=choices)
    return _interval(name, stated, where)


def _interval(name: str, stated: dict[str, Any], where: str) -> Range:
    kind = SPECS[name].kind
    if kind not in (int, float) or name == "test_views":
        raise ParameterError(f"{where}: {name} has no range of numbers: give {{choices: […]}}.")
    if not {"low", "high"} <= set(stated):
        raise ParameterError(f"{where}: {name} needs low and high, or choices.")
    low, high = (schema.check_value(name, stated[end], f"{where}, {end} of {name}") for end in ("low", "high"))
    if low is None or high is None or not low < high:
        raise ParameterError(f"{where}: {name} is from {low} to {high}, expected low below high.")
    log, step = stated.get("log", False), stated.get("step")
    if not isinstance(log, bool):
        raise ParameterError(f"{where}: log of {name} is {log!r}, expected true or false.")
    if log and low <= 0:
        raise ParameterError(f"{where}: {name} is from {low} by log, expected a low above 0.")
    if step is not None and (log or kind is not int or type(step) is not int or step < 1):
        raise ParameterError(f"{where}: step of {name} is {step!r}: it goes with whole numbers not by log.")
    return Range(low, high, log, step)


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """The ranges as Optuna's."""

    def distribution(name: str, part: Range) -> BaseDistribution:
        if part.choices:
            return CategoricalDistribution(part.choices)
        if SPECS[name].kind is int:
            return IntDistribution(part.low, part.high, part.log, part.step or 1)
        return FloatDistribution(part.low, part.high, part.log)

    return {name: distribution(name, part) for name, part in sweep.ranges.items()}


def base_params(sweep: Sweep, settings: Settings) -> Params:
    """What every trial has in common: base page, `set`, the sample's ceilings, SET; the test set out of reach.

    The ceilings lie below the ranges: on drawn data a trial still has the values that were chosen for it.
    """
    page = schema.load_page(sweep.page)
    known = schema.notebook_parameters(page.notebook)
    fixed = set(sweep.ranges) | set(known) - set(RUN_PARAMETERS)
    for name in fixed & set(settings.set_values):
        raise ParameterError(f"SET: {name} is the sweep's own: change it in params/sweeps/{sweep.name}.yaml.")
    schema.check(settings.set_values, "SET", known)
    stated = schema.Page(page.name, {**page.values, **sweep.set, "seeds": sweep.seeds})
    params = schema.resolve_page(stated, settings.sample, settings.set_values)
    threads = 1 if params.threads == "auto" else params.threads  # JOBS fill the cores, and any number gives these bits
    return dataclasses.replace(params, seed=params.seeds[0], threads=threads, score_test=False)


def trial_runs(base: Params, values: Mapping[str, Any]) -> list[Params]:
    """The runs of one trial, a seed each."""
    changed = base.replace(**values)
    return [dataclasses.replace(changed, seed=seed) for seed in base.seeds]


# -------------------------------------------------------------------------------------------------------------- worker


def without_test_images(faces: Faces) -> Faces:
    """The same, every test image blank: whatever is done with it, no test image is seen. Keys stay as they are."""
    images = np.zeros(faces.images.shape, faces.images.dtype)
    seen = faces.usage != PRIVATE
    images[seen] = faces.images[seen]
    return dataclasses.replace(faces, images=images)


def train(
    runs: list[Params],
    objective: str,
    settings: Settings,
    faces: Faces,
    tell: Callable[[int, float], bool],
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train a trial's runs one after the other, the first under the pruner's eye.

    Parameters
    ----------
    tell : gets each epoch of the first run and its score, in order and each once however often it was resumed;
        answers whether to give the trial up

    Returns
    -------
    state (complete or pruned), scores (a run each), epochs, status and seconds.

    Raises
    ------
    training.Stopped: `stop` said so.
    """
    from fer_core import training, watch

    started, found = time.monotonic(), list[dict[str, Any]]()
    told = 0
    given_up = False

    def hear(row: Mapping[Any, Any]) -> None:
        nonlocal told, given_up
        if not given_up and row["epoch"] > told and math.isfinite(row[objective]):
            told = int(row["epoch"])
            given_up = tell(told, float(row[objective]))

    def on_epoch(row: Mapping[str, Any]) -> None:
        if "resuming" not in row:
            hear(row)
        elif state := watch.checkpoint(watch.place(runs[0], settings, faces.data_hash)):
            for earlier in state["history"]:  # told again: a kill may have come before the last one was
                hear(earlier)

    for place, params in enumerate(runs):
        try:
            run = watch.train_or_load(
                params, settings, faces, None if place else on_epoch, None, lambda: given_up or stop()
            )
        except training.Stopped:
            if not given_up:
                raise
        else:
            found.append(run.metrics)
            if place == 0:  # a run that was there already tells its epochs too
                for row in run.history.to_dict("records"):
                    hear(row)
        if given_up:
            seconds = time.monotonic() - started
            return {"state": "pruned", "scores": [], "epochs": [told], "status": ["pruned"], "seconds": seconds}
    first = found[0]["validation"]
    return {
        "state": "complete",
        "scores": [metrics["validation"][METRICS[objective]] for metrics in found],
        "epochs": [metrics["epochs"] for metrics in found],
        "status": [metrics["status"] for metrics in found],
        **{"low": first["accuracy_low"], "high": first["accuracy_high"], "n": first["n"]},
        "seconds": time.monotonic() - started,
    }


def serve(connection: Connection, settings: Settings, objective: str, log: Path) -> None:
    """A worker's life: lists of runs come in, ("epoch", number, score) and ("end", outcome) go out."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    faces = without_test_images(data.open_faces(settings.data, settings.store))
    with contextlib.suppress(*GONE):  # the next call goes on from the checkpoint
        while True:
            runs = connection.recv()
            connection.send(("end", _attempt(connection, runs, objective, settings, faces, ended.is_set)))


def _attempt(
    way: Connection, runs: list[Params], objective: str, settings: Settings, faces: Faces, stop: Callable[[], bool]
) -> dict[str, Any]:
    """A trial's outcome, a fault's too; its epochs are told and answered on the way to the parent."""

    def tell(epoch: int, score: float) -> bool:
        way.send(("epoch", epoch, score))
        return way.recv()

    try:
        return train(runs, objective, settings, faces, tell, stop)
    except GONE:
        raise
    except Exception as fault:
        return {"state": "failed", "reason": build.fault_words(fault, settings)}


class Sender:
    """A hand whose trials' runs are trained by an engine, whole; here they are loaded and told epoch by epoch.

    So the same trials come out as without one: what the pruner gives up was trained to its end, and counts as given up.
    """

    def __init__(self, settings: Settings, objective: str, engine: build.Engine) -> None:
        self.settings, self.objective, self.engine = settings, objective, engine
        self.connection, self.theirs = multiprocessing.Pipe()
        self.trial: int | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(EOFError, OSError), self.theirs:  # the search is over
            faces = without_test_images(data.open_faces(self.settings.data, self.settings.store))
            while True:
                runs, started = self.theirs.recv(), time.monotonic()
                outcome = self._train(runs, faces.data_hash)
                outcome = outcome or _attempt(self.theirs, runs, self.objective, self.settings, faces, lambda: False)
                self.theirs.send(("end", outcome | {"seconds": time.monotonic() - started}))

    def _train(self, runs: list[Params], data_hash: str) -> dict[str, Any] | None:
        """Have them trained; the trial's end where one was not."""
        from fer_core import watch

        for params in runs:
            folder = watch.place(params, self.settings, data_hash)
            try:
                answer = self.engine.do(build.run_message(params, folder.name))
            except Exception as fault:  # a thread that died would leave its trial under way for ever
                return {"state": "failed", "reason": f"{type(fault).__name__}: {fault}"}
            if not Run(folder.name, params, folder).finished:
                device = devices.device_type(self.settings.device)
                why = answer.get("error", f"the engine trained on another device than {device}: say DEVICE=")
                return {"state": "failed", "reason": why}
        return None

    def close(self) -> None:
        """The thread hears it and closes its own end: closed from here too, it might be closed twice."""
        self.connection.close()


class Hand:
    """A worker as the parent sees it: its process, the way to it, and the trial it is at."""

    def __init__(self, settings: Settings, objective: str, log: Path) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, settings, objective, log), daemon=True)
        self.process.start()
        theirs.close()
        self.trial: int | None = None

    def close(self) -> None:
        """End it, politely first: what it trains stands in its last checkpoint."""
        self.connection.close()  # an idle one hears this alone: its SIGTERM only sets a mark
        self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


# -------------------------------------------------------------------------------------------------------------- search


class Search:
    """A sweep under way: which trial comes next, what became of each, all of it in Optuna's SQLite file.

    A changed definition, other data or other training code begins a study of its own in that file; a larger budget
    goes on with the one there is.
    """

    def __init__(
        self,
        sweep: Sweep,
        settings: Settings,
        say: Callable[[str], None] = lambda line: None,
        engine: build.Engine | None = None,
    ) -> None:
        self.sweep, self.settings, self.say, self.engine = sweep, settings, say, engine
        self.base = base_params(sweep, settings)
        self.data_hash = data.data_hash(settings.data, settings.store)
        self.trials_wanted = min(sweep.budget.trials, SAMPLE_TRIALS) if settings.sample else sweep.budget.trials
        # Where the sample's ceiling leaves few epochs, the pruner must still have one to decide at.
        self.warmup = min(sweep.pruner.warmup_epochs, max(1, self.base.epochs - 2) if settings.sample else 10_000)
        self.distributions = distributions(sweep)
        self.hands: list[Hand | Sender] = []
        self.deaths = Counter[int]()
        self._trials: list[FrozenTrial] | None = None
        folder = settings.store / "sweeps" / settings.name
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{sweep.name}.log"
        self.lock = FileLock(folder / f"{sweep.name}.lock", timeout=0)
        self.path = folder / f"{sweep.name}.db"

    @cached_property
    def storage(self) -> optuna.storages.RDBStorage:
        from sqlalchemy import URL

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.storages.RDBStorage(URL.create("sqlite", database=str(self.path)).render_as_string())

    @cached_property
    def study(self) -> optuna.Study:
        return optuna.create_study(
            storage=self.storage, study_name=self.key, direction=DIRECTIONS[self.sweep.objective], load_if_exists=True
        )

    @cached_property
    def key(self) -> str:
        """What makes it the same sweep: all but name, question and budget, and the keys of its networks' runs."""
        stated = dataclasses.asdict(self.sweep)
        for name in ("name", "question", "budget", "page", "set"):
            del stated[name]
        part = self.sweep.ranges.get("network")
        networks = part.choices if part else (self.base.network,)
        return digest([stated, [self.run_keys({"network": network}) for network in networks]])

    def run_keys(self, values: Mapping[str, Any]) -> list[str]:
        """The training keys of a trial's runs."""
        resolved = [devices.resolve(run, self.settings.device) for run in trial_runs(self.base, values)]
        return [run_key(run, self.data_hash, device).key for run, device in resolved]

    @property
    def trials(self) -> list[FrozenTrial]:
        """By number, from 0. Only this process writes them (it holds the lock): read anew once it has."""
        if self._trials is None:
            self._trials = self.study.get_trials(deepcopy=False)
        return self._trials

    def _probe(self, n: int) -> optuna.Study:
        """A study in memory as trial n may see it: what ended up to n − side_by_side, and chance of its own."""
        sampler, pruner = self.sweep.sampler, self.sweep.pruner
        seed = int(np.random.SeedSequence([sampler.seed, n]).generate_state(1)[0])
        chance: Any = optuna.samplers.RandomSampler(seed)
        if sampler.kind == "tpe":
            chance = optuna.samplers.TPESampler(n_startup_trials=sampler.startup_trials, seed=seed, constant_liar=True)
        median: Any = optuna.pruners.NopPruner()
        if pruner.kind == "median":
            median = optuna.pruners.MedianPruner(pruner.startup_trials, self.warmup + 1)  # steps count from 1
        probe = optuna.create_study(direction=DIRECTIONS[self.sweep.objective], sampler=chance, pruner=median)
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        probe.add_trials(trial for trial in self.trials[: self._seen(n)] if trial.state in ended)
        return probe

    def _seen(self, n: int) -> int:
        """How many trials, from the first on, trial n is chosen and judged by."""
        return max(0, n - self.sweep.side_by_side + 1)

    def _running(self, values: dict[str, Any], **attributes: Any) -> FrozenTrial:
        state = TrialState.RUNNING
        return create_trial(state=state, params=values, distributions=self.distributions, user_attrs=attributes)

    @property
    def own(self) -> dict[str, Any]:
        """The base page's own values; empty where the ranges do not hold them."""
        own = {name: getattr(self.base, name) for name in self.sweep.ranges}
        return own if all(part.holds(own[name]) for name, part in self.sweep.ranges.items()) else {}

    def propose(self, n: int) -> dict[str, Any]:
        """The values of trial n; the first are the base page's own, where the ranges hold them."""
        if n == 0 and self.own:
            return self.own
        probe = self._probe(n)
        for other in self.trials[self._seen(n) : n]:
            probe.add_trial(self._running(other.params))  # TPE keeps away from what is being tried
        values = probe.ask(self.distributions).params
        return {name: self.sweep.ranges[name].shortened(value) for name, value in values.items()}

    def prunes(self, n: int, epoch: int) -> bool:
        """Whether trial n, whose scores up to this epoch are stored, is given up here; never at its last epoch."""
        if epoch >= int(self.trials[n].params.get("epochs", self.base.epochs)):
            return False
        probe = self._probe(n)
        trial = probe.ask()
        for step, score in sorted(self.trials[n].intermediate_values.items()):
            if step <= epoch:
                trial.report(score, step)
        return trial.should_prune()

    def _next(self) -> int | None:
        """The trial to start now: one that was under way when a process died, or a new one; None: none yet, or none."""
        trials, busy = self.trials, {hand.trial for hand in self.hands}
        for trial in trials:
            if not trial.state.is_finished() and trial.number not in busy:
                return trial.number
        n = len(trials)
        hours = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials) / 3600
        if n >= self.trials_wanted or hours >= (self.sweep.budget.hours or math.inf):
            return None
        if not all(trial.state.is_finished() for trial in trials[: self._seen(n)]):
            return None
        values = self.propose(n)
        self.study.add_trial(self._running(values, keys=self.run_keys(values)))
        self._trials = None
        return n

    def run(self, jobs: int) -> None:
        """All trials of the budget, `jobs` at a time.

        Raises
        ------
        FerError: another process is at this very sweep.
        """
        try:
            self.lock.acquire()
        except Timeout:
            raise FerError(f"sweep {self.sweep.name} is running already: wait for it, or end that process.") from None
        try:
            self._trials = None
            while True:
                while (sum(hand.trial is not None for hand in self.hands) < jobs) and (n := self._next()) is not None:
                    self._start(n)
                busy = {hand.connection: hand for hand in self.hands if hand.trial is not None}
                if not busy:
                    return
                for ready in wait(list(busy)):
                    self._hear(busy[ready])  # type: ignore[index]
        finally:
            for hand in self.hands:
                hand.close()
            self.hands.clear()
            self.lock.release()

    def _start(self, n: int) -> None:
        hand = next((hand for hand in self.hands if hand.trial is None), None)
        if hand is None:
            told = self.settings, self.sweep.objective
            hand = Sender(*told, self.engine) if self.engine else Hand(*told, self.log)
            self.hands.append(hand)
        trial = self.trials[n]
        hand.trial = n
        again = ", going on" if trial.intermediate_values else ""
        self.say(f"trial {n}: {report.set_text(trial.params)}{again}")
        try:
            hand.connection.send(trial_runs(self.base, trial.params))
        except GONE:
            self._bury(hand)

    def _hear(self, hand: Hand | Sender) -> None:
        assert hand.trial is not None
        try:
            kind, *told = hand.connection.recv()
            if kind == "epoch":
                self.storage.set_trial_intermediate_value(self.trials[hand.trial]._trial_id, *told)
                self._trials = None
                hand.connection.send(self.prunes(hand.trial, told[0]))
                return
        except GONE:
            self._bury(hand)
        else:
            self._end(hand.trial, told[0])
            hand.trial = None

    def _bury(self, hand: Hand | Sender) -> None:
        """A worker died (killed, or out of memory): its trial is taken up once more, then it counts as failed."""
        n = hand.trial
        assert n is not None
        hand.close()
        self.hands.remove(hand)
        self.deaths[n] += 1
        how = f"its process ended with {hand.process.exitcode}" if isinstance(hand, Hand) else "its thread ended"
        self.say(f"trial {n}: {how}; see {self.log.name} in the run store")
        if self.deaths[n] > 1:
            self._end(n, {"state": "failed", "reason": f"{how}, twice"})

    def _end(self, n: int, outcome: dict[str, Any]) -> None:
        scores = outcome.get("scores")
        value = float(np.mean(scores)) if scores else math.nan
        if outcome["state"] == "complete" and not math.isfinite(value):
            outcome |= {"state": "failed", "reason": f"its {self.sweep.objective} is not a number"}
        if "reason" in outcome:  # the page and trials.csv may be published as they are
            outcome["reason"] = report.hide_paths(outcome["reason"], self.settings)
        for name, told in outcome.items():
            self.storage.set_trial_user_attr(self.trials[n]._trial_id, name, told)
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}.get(outcome["state"], TrialState.FAIL)
        self.study.tell(n, value if state == TrialState.COMPLETE else None, state)
        self._trials = None
        word = f"{self.sweep.objective} {value:.4f}" if state == TrialState.COMPLETE else outcome["state"]
        self.say(f"trial {n}: {word}{': ' + outcome['reason'] if 'reason' in outcome else ''}")


# ---------------------------------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class Row:
    """One trial as page and trials.csv show it. `score` is None where it was given up or failed."""

    trial: int
    state: str  # complete, pruned, failed, diverged or cut short
    values: dict[str, Any]
    score: float | None
    epochs: int
    training_keys: str
    reason: str
    curve: dict[int, float]
    outcome: dict[str, Any]


def rows(search: Search) -> list[Row]:
    """Every trial, by number."""
    return [_row(trial) for trial in search.trials]


def _row(trial: FrozenTrial) -> Row:
    told = trial.user_attrs
    state = told.get("state", "cut short")
    if state == "complete" and "diverged" in told["status"]:
        state = "diverged"
    curve = dict(sorted(trial.intermediate_values.items()))
    score = trial.value if told.get("state") == "complete" else None
    epochs = sum(told.get("epochs", [])) or len(curve)
    keys = " ".join(told["keys"])
    return Row(trial.number, state, trial.params, score, epochs, keys, told.get("reason", ""), curve, told)


def best_of(found: Iterable[Row], objective: str) -> Row | None:
    """The best score among trials trained to their end; the earliest of equal ones."""
    scored = [row for row in found if row.score is not None]
    sign = -1 if DIRECTIONS[objective] == "maximize" else 1
    return min(scored, key=lambda row: (sign * (row.score or 0.0), row.trial), default=None)


def trials_csv(sweep: Sweep, found: Iterable[Row]) -> bytes:
    """trials.csv: trial, state, the parameters, the objective, epochs, training_keys, reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", *sweep.ranges, sweep.objective, "epochs", "training_keys", "reason"])
    for row in found:
        values = [_cell(row.values[name]) for name in sweep.ranges]
        writer.writerow([row.trial, row.state, *values, row.score, row.epochs, row.training_keys, row.reason])
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def stated_values(search: Search, row: Row) -> dict[str, Any]:
    """How the base page would have to differ to have this trial's runs: what SET or a YAML states.

    The test set stays out of reach.
    """
    page = schema.load_page(search.sweep.page)
    own = schema.resolve_page(page, search.settings.sample)
    trial = search.base.replace(**row.values)
    names = [name for name in schema.notebook_parameters(page.notebook) if name != "threads"]
    return {name: value for name, value in schema.stated(trial, own).items() if name in names}


def importance(search: Search, found: list[Row]) -> dict[str, float]:
    """Each parameter's share in reaching the best quarter of the trials, by PED-ANOVA; empty for too few of them.

    Source: arXiv:2304.10255, as Optuna computes it.
    """
    sign = -1.0 if DIRECTIONS[search.sweep.objective] == "maximize" else 1.0
    known = [row for row in found if row.score is not None or (row.state == "pruned" and row.curve)]
    scored = [sign * row.score for row in known if row.score is not None]
    if len(known) < FEW_TRIALS or not scored:
        return {}
    # Given up: not among the best.
    values = [max(scored) if row.score is None else sign * row.score for row in known]
    if sorted(values)[math.ceil(TOP_SHARE * len(values)) - 1] == max(values):
        return {}
    study = optuna.create_study(direction="minimize")
    for row, value in zip(known, values, strict=True):
        study.add_trial(create_trial(params=row.values, distributions=search.distributions, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE)
    names = list(search.sweep.ranges)
    found_shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(share) for name, share in found_shares.items()}


def _score_words(score: float | None, objective: str) -> str:
    return percent(score) if score is None or METRICS[objective] == "accuracy" else f"{score:.3f}\u00a0nats"


def finding(search: Search, found: list[Row], best: Row | None) -> str:
    """The page's first sentences, from the trials."""
    sweep, words = search.sweep, _words(search.sweep)
    said = {"pruned": "given up early", "failed": "failed", "diverged": "diverged"}
    counts = Counter(row.state for row in found)
    told = [f"{counts[state]} {ending}" for state, ending in said.items() if counts[state]]
    told_text = f" ({', '.join(told)})" if told else ""
    if best is None:
        return f"None of {len(found)} trials{told_text} was trained to its end."
    values = ", ".join(f"{name} {_cell(value)}" for name, value in best.values.items())
    interval = ""
    if sweep.objective == "validation_accuracy" and len(search.base.seeds) == 1:
        low, high = best.outcome["low"] * 100, best.outcome["high"] * 100
        interval = f" [{low:.1f}, {high:.1f}] of the {best.outcome['n']:,} validation images"
    text = f"Of {len(found)} trials{told_text}, trial {best.trial} has the best {words}, "
    text += f"{_score_words(best.score, sweep.objective)}{interval}, with {values}."
    base = next((row for row in found if row.values == search.own and row.score is not None), None)
    if base is best:
        return text + " These are the base page's own values."
    if base is not None:
        return text + f" The base page's own values reach {_score_words(base.score, sweep.objective)}."
    return text


def _ranges(search: Search, best: Row | None) -> list[tuple[str, str, str, str]]:
    """Of each parameter its name, range, value on the base page and value in the best trial."""
    found = []
    for name, part in search.sweep.ranges.items():
        words = ", ".join(_cell(choice) for choice in part.choices)
        if not part.choices:
            steps = f", in steps of {part.step}" if part.step else ""
            words = f"{part.low:g} to {part.high:g}{', by log' * part.log}{steps}"
        found.append((name, words, _cell(getattr(search.base, name)), _cell(best.values[name]) if best else "–"))
    return found


def _tried(search: Search) -> str:
    """Base page, runs and score in words."""
    sweep, settings, seeds = search.sweep, search.settings, len(search.base.seeds)
    stands = (settings.reports / f"{sweep.page}.html").exists()
    fixed = report.set_text({**sweep.set, **settings.set_values})
    text = f"Base page: {f'[{sweep.page}](../{sweep.page}.html)' if stands else f'`{sweep.page}`'}"
    text += f", with `{fixed}`" * bool(fixed) + "; on drawn data under the sample's ceilings" * settings.sample
    runs = f"{seeds} runs, a seed each" if seeds > 1 else f"one run, with seed {search.base.seeds[0]}"
    text += f". Each trial trains {runs}; the score is the {_words(sweep)} of the kept epoch"
    text += ", averaged over the seeds" * (seeds > 1)
    return text + ". **No test image was seen**: the workers got them blank."


def _how(search: Search) -> str:
    """Sampler, pruner and budget in words."""
    sweep, text = search.sweep, "Values are drawn at random."
    if sweep.sampler.kind == "tpe":
        text = f"The first {sweep.sampler.startup_trials} trials are drawn at random, the others by TPE "
        text += f"(sampler seed {sweep.sampler.seed})."
    if search.own:
        text += " In place of what would be drawn first stand the base page's own values."
    if sweep.pruner.kind == "median":
        text += (
            f" After {sweep.pruner.startup_trials} whole trials, one whose best score so far is below the median of the"
            f" earlier ones at the same epoch is given up, from epoch {search.warmup + 1} on."
        )
    text += f" Up to {sweep.side_by_side} trials are under way together, and each is chosen and judged by those "
    text += "that came before them, so that the same trials come out however many cores there are."
    if len(search.trials) < search.trials_wanted:
        hours = f"{sweep.budget.hours:g} hours of training"
        text += f" The {hours} were spent before all {search.trials_wanted} trials were."
    return text


IN_FULL = """This shows it in full, with its curves, confusions and mistakes:

```
{command}
```

{blind}To keep it as a page of its own, write `params/{notebook}/{name}.yaml`:

```
# The best trial of the sweep {name}, chosen on validation.
{yaml}
```

The best of {trials} is flattered by having been chosen: trained with other seeds it will score lower on average. A
difference that matters is a claim's business (`05_analysis`), with seeds and a rule written down beforehand."""
BLIND = """`score_test=false` keeps the test set out of it: which pages may look there is named beforehand, in a file.

"""
RANKED = """PED-ANOVA ([arXiv:2304.10255](https://arxiv.org/abs/2304.10255)): how far the values of the best quarter of
{n} trials differ in spread from those of all. A trial that was given up was below the median and counts as outside that
quarter."""
NOT_RANKED = f"""Fewer than {FEW_TRIALS} trials have a score, or most of them the same: nothing can be said about which
parameter matters."""
GOES_ON = """The definition is `params/sweeps/{}.yaml`. Trials that have ended are not trained again; a larger budget
goes on from here."""


def _in_full(search: Search, best: Row, trials: int) -> str:
    """How to see the best trial in full, and what it is worth."""
    page, stated = search.sweep.page, stated_values(search, best)
    return IN_FULL.format(
        command=report.commands(page, dataclasses.replace(search.settings, set_values=stated))[0],
        blind=BLIND * ("score_test" in stated),
        notebook=page.split("/")[0],
        name=search.sweep.name,
        yaml="\n".join(report.set_text({name: value}).replace("=", ": ", 1) for name, value in stated.items()),
        trials=trials,
    )


def document(search: Search, found: list[Row]) -> Any:
    """The page's cells: what was tried and what came out, all of it decided on validation images."""
    import pandas as pd

    from fer_core import compare, notebook, plots

    sweep, made = search.sweep, compare.Document()
    best, shares = best_of(found, sweep.objective), importance(search, found)
    place, scores = best.trial if best else None, [row.score for row in found]
    made.words(f"# {title(sweep)}")
    made.finding(finding(search, found, best))
    made.words(f"## What was tried\n\n{_tried(search)}\n\n{_how(search)}")
    made.table(notebook.Table.of(_ranges(search, best), ["parameter", "range", "base page", "best trial"]))
    made.words("## The best trial")
    lead = "By trial, with the best until then."
    made.figure(plots.best_so_far(scores, sweep.objective), lead, f"trials.csv: {sweep.objective}")
    if best:
        made.words(_in_full(search, best, len(found)))
    made.words("## What matters")
    if shares:
        made.figure(plots.importances(shares), "A bar a parameter.", f"trials.csv: {', '.join(sweep.ranges)}")
    n = sum(row.score is not None or row.state == "pruned" for row in found)
    hint = f" With {n} trials this is a hint and no more." * (n < ENOUGH_TRIALS)
    made.words(RANKED.format(n=n) + hint if shares else NOT_RANKED)
    made.words("## How values go together")
    values = pd.DataFrame([row.values for row in found], columns=list(sweep.ranges))
    logs = [name for name, part in sweep.ranges.items() if part.log]
    axes = plots.parallel_coordinates(values, scores, place, logs, sweep.objective)
    source = f"trials.csv: {', '.join([*sweep.ranges, sweep.objective])}"
    made.figure(axes, "A line a trial through its values to its score.", source)
    made.words("## The course of the trials")
    pruned = [row.state == "pruned" for row in found]
    axes = plots.trial_curves([row.curve for row in found], pruned, place, sweep.objective)
    source = f"trials.csv: training_keys; and each first run's history.csv: epoch, {sweep.objective}"
    made.figure(axes, "A line a trial, by epoch of its first seed.", source)
    made.words("## All trials")
    columns = ["trial", "state", *sweep.ranges, _words(sweep), "epochs", "training key"]
    made.table(notebook.Table.of([_shown(row, sweep, place) for row in found], columns), sortable=True)
    made.words(GOES_ON.format(sweep.name))
    return made.notebook()


def _words(sweep: Sweep) -> str:
    return sweep.objective.replace("_", " ")


def title(sweep: Sweep) -> str:
    return " ".join((sweep.question or f"{sweep.page}: {' × '.join(sweep.ranges)}").split())  # one line: a heading


def _shown(row: Row, sweep: Sweep, best: int | None) -> list[Any]:
    """A trial's line in the table of all."""
    state = row.state + ", best" * (row.trial == best) + f" ({row.reason})" * bool(row.reason)
    values, score = [_cell(row.values[name]) for name in sweep.ranges], _score_words(row.score, sweep.objective)
    return [row.trial, state, *values, score, row.epochs, row.training_keys[:8]]


def render(search: Search) -> str:
    """The sweep's page, as the other pages look."""
    sweep, settings, found = search.sweep, search.settings, rows(search)
    keys = [key for row in found for key in row.training_keys.split()]
    runs = [Run(key, search.base, run_folder(settings.store, key)) for key in keys]
    made = report.provenance([run for run in runs if run.finished])
    context = report.PageContext(
        name=f"sweeps/{sweep.name}",
        title=title(sweep),
        dataset=settings.name,
        sample=settings.sample,
        own=not settings.sample and not data.is_fer2013(data.open_faces(settings.data, settings.store)),
        files=("trials.csv",),
        commands=(f"make sweep SWEEP={sweep.name}{report.variables(settings)}",),
        provenance={**report.without_machine(made), "optuna": version("optuna")},  # it may be published as it is
    )
    return report.render(report.clean(document(search, found), settings), context)


def write_page(search: Search) -> Path:
    """trials.csv and the page, each in its place or not at all; returns the page's path."""
    folder = search.settings.reports / "sweeps" / search.sweep.name
    found = rows(search)
    artifacts.write_bytes(folder / "trials.csv", trials_csv(search.sweep, found))
    rendered = render(search).encode()
    record = {
        "name": search.sweep.name,
        "page": search.sweep.page,
        "title": title(search.sweep),
        "finding": finding(search, found, best_of(found, search.sweep.objective)),
        "study": search.key,
    }
    artifacts.write_json(folder / "sweep.json", record)
    page = report.page_file(folder)
    artifacts.write_bytes(page, rendered)
    return page


def sweep(settings: Settings, name: str, jobs: int, connect: Callable[[Settings], build.Engine] | None = None) -> int:
    """Run what is left of a sweep, write its page and the index; exit status 1 with a list where trials failed.

    `connect` gives the engine that trains, as many trials at a time as may be under way together.
    """
    stated = load(name)
    with contextlib.closing(connect(settings)) if connect else contextlib.nullcontext() as engine:
        search = Search(stated, settings, lambda line: print(line, file=sys.stderr, flush=True), engine)
        search.run(stated.side_by_side if engine else jobs)
    page = write_page(search)
    build.write_tables(build.Plan(dataclasses.replace(settings, set_values={})), {})  # the index names the sweep
    failed = [row for row in rows(search) if row.state == "failed"]
    for row in failed:
        print(f"trial {row.trial} failed: {row.reason}")
    print(f"{settings.name}: sweep {name}, {len(search.trials)} trials: {page}")
    return 1 if failed else 0
