"""What is current, what must run and why; the plan; workers side by side; results.csv, claims.csv and the index.

Content decides, never a time stamp: a run is known by its training key, a page by its report key. Nothing here
imports torch, so a second `make all-reports` is over within a blink.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from fer_core import artifacts, claims, cost, data, devices, glossary, kernels, leaderboard, limits, report, schema
from fer_core.artifacts import Run, RunKey, Settings, digest, find_run, read_json, run_folder, run_key
from fer_core.schema import DEFAULTS, PACKAGE, ROOT, SPECS, FerError, Page, ParameterError, Params, counted, listed

RENDERING = (
    "schema.py", "data.py", "evaluation.py", "claims.py", "plots.py", "augment.py", "explain.py", "leaderboard.py",
    "notebook.py", "exploration.py", "analysis.py", "beyond.py", "glossary.py", "report.py",
)  # fmt: skip
NOT_HERE = "is a claim about FER2013 itself, which this data is not"
FAILED = "failed.json"  # in a run's folder: its last attempt ended by a fault
STOPPED_STATUS = 75  # EX_TEMPFAIL: stopped by a signal or a limit, the next call goes on
RUN_MEGABYTES, PAGE_SECONDS = 3, 5  # measured on FER2013: a run in the store, a page on one core
SURE_SECONDS = 60.0  # an estimate counts as so much experience of its own
Rows = Sequence[Mapping[str, Any]]
ROUGH_SECONDS = {"basic_cnn": 1 / 1200, "complex_cnn": 1 / 550, "residual": 1 / 300}  # an image and epoch, one CPU core


# ---------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class WantedRun:
    """A run that a page needs, with what the store has of it."""

    params: Params
    wanted: RunKey
    found: Run | None
    epochs_done: int

    @property
    def key(self) -> str:
        return self.wanted.key

    @property
    def name(self) -> str:
        return f"{self.params.network} {self.key[:6]} seed {self.params.seed}"


@dataclass
class PagePlan:
    """A page with its runs (arm by arm) and why it is not current; no reasons: it is."""

    page: Page
    params: Params
    arms: dict[str, list[WantedRun]]
    inputs: dict[str, Any]
    reasons: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.page.name

    @property
    def runs(self) -> list[WantedRun]:
        return [run for arm in self.arms.values() for run in arm]

    @property
    def results(self) -> list[WantedRun]:
        """All but those of an ablation, which stand in their page's table alone."""
        return self.arms.get(self.name, self.runs)

    @property
    def finished(self) -> list[Run]:
        """Those of its results that are there."""
        return [run.found for run in self.results if run.found is not None]

    @property
    def shown(self) -> Params:
        """Its parameters, as its first finished run had them."""
        return self.finished[0].settled(self.params) if self.finished else self.params

    @property
    def own(self) -> WantedRun | None:
        """The run that a training page trains in its own notebook."""
        return self.runs[0] if self.runs and not self.params.arms else None


def _notebook_source(notebook: str) -> str:
    cells = schema.read_notebook(notebook)["cells"]
    return digest([[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells])


def _template_fingerprint() -> str:
    files = sorted((PACKAGE / "template").rglob("*"))
    return digest([[file.name, digest(file.read_bytes())] for file in files if file.is_file()])


class Plan:
    """The whole study, or the named pages of it, against what lies in OUT.

    Raises
    ------
    FerError: parameters or data at fault.
    """

    def __init__(self, settings: Settings, names: Iterable[str] | None = None, ended: bool = False) -> None:
        """`ended` after a build: no run that is missing now is still to come."""
        self.settings, self.ended = settings, ended
        every = schema.page_names()
        loaded = {name: schema.load_page(name) for name in dict.fromkeys([*(names or []), *every])}
        self._check_set(loaded.values())
        self.data_hash = data.data_hash(settings.data, settings.store)
        self.classes: tuple[str, ...] = schema.EMOTIONS
        self.fer2013, self.tested, self._images = False, True, 2_700
        if not settings.sample:
            faces = data.open_faces(settings.data, settings.store)
            data.make_split(faces)  # what cannot be split is told before anything starts
            self.classes, self.fer2013, self.tested = faces.classes, data.is_fer2013(faces), faces.has_test_labels
            self._images = int((faces.usage != data.PRIVATE).sum())
        self.own = {} if self.fer2013 or settings.sample else {"own": True}  # an input of every page
        resolved = {name: schema.resolve_page(loaded[name], settings.sample, settings.set_values) for name in every}
        foreign = [name for name, params in resolved.items() if not schema.applies(params, self.classes)]
        self.elsewhere = {name: resolved[name] for name in foreign}  # pages that ask about FER2013's emotions
        every = [name for name in every if name not in self.elsewhere]
        wanted = list(dict.fromkeys(names)) if names is not None else every
        for name in set(wanted) & set(self.elsewhere):
            raise ParameterError(f"{name} {NOT_HERE}: leave it out.")
        self._runs: dict[str, WantedRun] = {}
        self._resolved = resolved
        self.rendering = {file: artifacts.code_fingerprint(file) for file in RENDERING}
        self.rendering["template"] = _template_fingerprint()
        self.pages = {name: self._plan_page(loaded[name], resolved[name], every) for name in every}
        self.chosen = [self.pages[name] for name in wanted]
        for name, plan in self.pages.items():
            if name.endswith("/summary"):
                plan.inputs["claims"] = self._claims()
            plan.reasons = self._reasons(plan)

    def _check_set(self, pages: Iterable[Page]) -> None:
        known = {name for page in pages for name in schema.notebook_parameters(page.notebook)}
        schema.check(self.settings.set_values, "SET", known)

    def check_chosen(self) -> None:
        """Refuse what SET names and neither a chosen page has nor one that its arms start from; the summary has all."""
        if any(page.name.endswith("/summary") for page in self.chosen):
            return
        arms = [self.pages[arm["page"]] for page in self.chosen for arm in page.params.arms.values()]
        self._check_set(page.page for page in (*self.chosen, *arms))

    def _plan_page(self, page: Page, params: Params, every: list[str]) -> PagePlan:
        try:
            wanted = schema.page_runs(page, params, self.settings.sample, self.settings.set_values)
            if params.arms:
                claims.check_rule(params.rule, params.arms, params.metric, self.classes)
        except ParameterError as fault:
            raise ParameterError(f"params/{page.name}.yaml: {fault}") from fault
        arms = {arm: [self._want(run) for run in runs] for arm, runs in wanted.items()}
        inputs = {
            "parameters": schema.stated(params),
            "data": self.data_hash,
            "runs": {arm: [run.key for run in runs] for arm, runs in arms.items()},
            "stand_ins": sorted(
                run.key + run.found.foreign
                for run in itertools.chain(*arms.values())
                if run.found is not None and run.found.foreign
            ),
            "notebook": _notebook_source(page.notebook),
            "stated": digest(page.text),  # shown as it was written
            "rendering": self.rendering,
            "neighbours": schema.neighbours(every)[page.name],
        } | self.own
        if params.arms and self.settings.set_values:  # else it stands among the page's own parameters
            inputs["set"] = dict(self.settings.set_values)
        bases = {arm["page"] for arm in params.arms.values() if not arm.get("set")}
        if bases:  # whether these score the test themselves decides whether the claim's page may show it
            inputs["bases"] = {name: [self._resolved[name].score_test, self._resolved[name].seeds] for name in bases}
        return PagePlan(page, params, arms, _as_stored(inputs))

    def _claims(self) -> dict[str, str]:
        """What the summary is made of: each claim's inputs, and which of its runs will not be there yet after this."""
        coming = set() if self.ended else {run.key for page in self.chosen for run in page.runs}
        found = {}
        for page in filter(lambda page: page.params.arms, self.pages.values()):
            owed = sorted(run.key for run in page.runs if run.found is None and run.key not in coming)
            found[page.name] = digest([page.inputs, owed] if owed else page.inputs)
        return found

    def _want(self, params: Params) -> WantedRun:
        params, device = devices.resolve(params, self.settings.device)
        wanted = run_key(params, self.data_hash, device)
        if wanted.key not in self._runs:
            store = self.settings.store
            found = find_run(params, wanted, store, self.settings.published)
            self._runs[wanted.key] = WantedRun(params, wanted, found, _epochs_done(run_folder(store, wanted.key)))
        return self._runs[wanted.key]

    def _reasons(self, plan: PagePlan) -> list[str]:
        folder = self.settings.reports / plan.name
        stood = read_json(folder / "page.json")
        html = report.page_file(folder)
        trained = _to_train(plan)
        if stood is None or not html.exists():
            why = "it failed before" if report.page_file(folder, ".failed.html").exists() else "never made"
            return [reason for reason in (why, trained) if reason]
        if reasons := differences(stood["inputs"], plan.inputs):
            return reasons
        if trained:
            return [trained]
        if digest(html.read_bytes()) != stood["html"]:
            return ["its HTML was changed by hand"]
        return [f"{name} is gone" for name in stood.get("files", ()) if not (folder / name).exists()][:1]

    @property
    def stale(self) -> list[PagePlan]:
        return [plan for plan in self.chosen if plan.reasons]

    def missing_runs(self) -> list[WantedRun]:
        """Each once, first seeds of all pages before any second: every claim has something before one has all."""
        arms = [runs for plan in self.stale for runs in plan.arms.values()]
        waves = itertools.zip_longest(*arms)  # of a place in every arm
        return list({run.key: run for wave in waves for run in wave if run and run.found is None}.values())

    def seconds(self, run: WantedRun) -> float:
        """How long its training takes by finished runs on this type of device, else a rough figure."""
        images = self._images * run.params.train_fraction
        rough = ROUGH_SECONDS.get(run.params.network, 1 / 120) * images * min(1.0, run.params.width**2)
        measured = self.clock.epoch(run.params, run.wanted.device)
        return (rough if measured is None else measured) * (run.params.epochs - run.epochs_done)

    @cached_property
    def identities(self) -> set[str | None]:
        """Parameters and data of every run in the store, whatever trained it."""
        return {(read_json(path) or {}).get("identity") for path in self.settings.store.glob("runs/*/run.json")}

    @cached_property
    def clock(self) -> cost.Clock:
        """The seconds of every finished run of this data: own, imported and published."""
        store = self.settings.store
        shelves = (store / "runs", store / "imported", self.settings.published)
        return cost.Clock(filter(None, shelves), self.data_hash)

    def describe(self, jobs: int, price: float | None = None) -> str:
        """What is current, what would run and why, hours, disk and money: what `make plan` prints."""
        lines = [f"{self.settings.name}: {len(self.chosen) - len(self.stale)} of {len(self.chosen)} pages are current."]
        lines += [f"  {name}: does not apply, since it {NOT_HERE}" for name in self.elsewhere]
        if not self.tested:
            lines.append("  the data has no PrivateTest images with labels: no page will have a test accuracy")
        lines += [f"  {plan.name}: {'; '.join(plan.reasons)}" for plan in self.stale]
        missing = self.missing_runs()
        hours = sum(map(self.seconds, missing)) / 3600
        timed = all(self.clock.epoch(run.params, run.wanted.device) is not None for run in missing)
        measured = "from measured seconds" if timed else "a rough figure: not every network has been timed here yet"
        if missing:
            amount, digits, unit = (hours, 1, "hours") if hours >= 1 else (hours * 60, 0, "minutes")
            lines.append(
                f"{counted(len(missing), 'run')} to train: about {amount:.{digits}f} core {unit}, "
                f"{amount / jobs:.{digits}f} with JOBS={jobs} ({measured}); "
                f"about {len(missing) * RUN_MEGABYTES:,} MB of disk."
            )
        if self.stale:
            seconds = len(self.stale) * PAGE_SECONDS / jobs
            lines.append(f"{counted(len(self.stale), 'page')} to make: about {_time(seconds)} more.")
        study = {run.key: (run.params, run.wanted.identity) for plan in self.chosen for run in plan.runs}
        if study:
            what = "The whole study" if len(self.chosen) == len(self.pages) else "The training of these pages"
            lines += cost.describe(self.clock, list(study.values()), jobs, price, what)
        return "\n".join(lines)


def _as_stored(inputs: dict[str, Any]) -> dict[str, Any]:
    """As page.json gives them back: tuples as lists."""
    return json.loads(json.dumps(inputs))


def _epochs_done(folder: Path) -> int:
    """How many epochs of a run that goes on lie behind it: under way, just resumed, or cut."""
    if progress := read_json(folder / "progress.json"):
        return int(progress.get("epoch", progress.get("resuming", 1) - 1))
    cut = (read_json(folder / "run.json") or {}).get("state") == "cut"
    return int((read_json(folder / "metrics.json") or {}).get("epochs", 0)) if cut else 0


def _to_train(plan: PagePlan) -> str:
    """How many of the page's runs are not there; and whether a claim would mix them with others than its own kind."""
    missing = [run for run in plan.runs if run.found is None]
    if not missing:
        return ""
    told = f"{len(missing)} of {len(plan.runs)} runs to train"
    records = {
        arm: [vars(run.wanted) if run.found is None else run.found.provenance for run in runs]
        for arm, runs in plan.arms.items()
    }
    if plan.params.arms and (ways := claims.mixture(records, plan.params)):
        told += f" ({listed(ways)} would be mixed, which decides nothing: README, “Go on elsewhere”)"
    return told


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def differences(stood: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, what made a page stale: `learning_rate 0.005 → 0.01`, `plots.py changed`."""
    reasons = []
    old, new = ({**told.get("parameters", {}), **told.get("set", {})} for told in (stood, now))
    for name in sorted({*old, *new}, key=list(SPECS).index if {*old, *new} <= set(SPECS) else None):
        default = getattr(DEFAULTS, name, None)
        before, after = old.get(name, default), new.get(name, default)
        if before != after:
            short = isinstance(before, (int, float, str)) or before is None
            reasons.append(f"{name} {before} → {after}" if short else f"{name} changed")
    if stood.get("data") != now["data"]:
        reasons.append("other data")
    reasons += [
        f"{file} changed" for file, value in now["rendering"].items() if stood.get("rendering", {}).get(file) != value
    ]
    if stood.get("notebook") != now["notebook"]:
        reasons.append("its notebook changed")
    last = {
        "stated": "its YAML was reworded",
        "runs": "the code that trains, the device, precision or threads changed",
        "neighbours": "its neighbours changed",
    }
    changed = [why for name, why in last.items() if stood.get(name) != now.get(name)]
    changed += ["a claim or a stand-in run changed"] * (stood != now)
    return reasons or changed[:1]


# ------------------------------------------------------------------------------------------------------------- workers


@dataclass
class Task:
    """A run to train or a page to make; `after` holds the keys of runs and names of pages that must be there first."""

    name: str
    message: dict[str, Any]
    after: set[str]
    seconds: float
    key: str = ""


def drawn_on(plan: Plan, name: str) -> list[WantedRun]:
    """The runs that a page shows, each once: its own; for the summary those of all claims."""
    claims = [page for page in plan.pages.values() if page.params.arms]
    pages = claims if name.endswith("/summary") else [plan.pages[name]]
    return list({run.key: run for page in pages for run in page.runs}.values())


def tasks_of(plan: Plan, apart: bool = False) -> list[Task]:
    """The stale pages and missing runs; a training page trains its own first run, so whoever shares it waits for it.

    With `apart` it waits for that run too: an engine, or a worker, trains all of them.
    """
    provider: dict[str, str] = {}
    for page in plan.stale:
        if page.own is not None and page.own.found is None and not apart:
            provider.setdefault(page.own.key, page.name)
    tasks = []
    for page in plan.stale:
        missing = [run for run in drawn_on(plan, page.name) if run.found is None]
        after = {run.key for run in missing if provider.get(run.key) != page.name}
        message = {"kind": "page", "name": page.name, "inputs": page.inputs}
        own = page.own if page.name in provider.values() else None
        seconds = 8.0 + (plan.seconds(own) if own else 0.0)
        tasks.append(Task(page.name, message, after, seconds, own.key if own else ""))
    for run in plan.missing_runs():
        if run.key not in provider:
            tasks.append(Task(run.name, run_message(run.params, run.key), set(), plan.seconds(run), run.key))
    return tasks


def run_message(params: Params, key: str) -> dict[str, Any]:
    """What a worker or an engine is told of a run."""
    told = {name: value for name, value in schema.stated(params).items() if name not in ("arms", "rule")}
    return {"kind": "run", "params": told, "key": key}


class Worker:
    """A process that trains runs and makes pages one after the other, told so by lines of JSON.

    It starts with the first of them, and anew with the next where it has died.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings, self.log = settings, log
        self.process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as errors:  # the process has a handle of its own
            return subprocess.Popen(
                [sys.executable, "-m", "fer_core", "_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=worker_environment(self.settings),
                start_new_session=True,
            )

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        process = self.process = self.process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            print(json.dumps(message), file=process.stdin, flush=True)
            answer = process.stdout.readline()
        except OSError:  # a broken pipe, which Windows calls an invalid argument
            answer = ""
        if answer.endswith("\n"):
            return json.loads(answer)
        status = process.wait()
        self.close()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return {"error": f"its process ended with {how}; see {self.log.name} in the run store"}

    def close(self) -> None:
        """End its process: politely, so that what it trains can be gone on with, then not."""
        process, self.process = self.process, None
        if process is not None:
            # Closes its streams; what a dead one never read is flushed once more, in vain.
            with contextlib.suppress(OSError), process:
                process.terminate()
                try:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(5.0)
                finally:  # after a second Ctrl-C too: its streams close when it has ended
                    process.kill()


class Engine(Protocol):
    """Trains runs elsewhere than in this build's workers: on a cluster. `slots` at a time, the rest waits there."""

    slots: int
    in_flight: int

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        """Train the run of a message of kind `run`; a worker's answer, once the run lies in the store."""

    def close(self) -> None:
        """Call back what is under way."""


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FER_THREADS"), "1")


def worker_environment(settings: Settings) -> dict[str, str]:
    """One thread a worker (JOBS of them fill the cores), and what the settings say."""
    words = {
        "FER_DATA": str(settings.data or ""),
        "FER_NAME": settings.name,
        "FER_DEVICE": settings.device,
        "FER_OUT": str(settings.out),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    }
    return {**os.environ, **ONE_THREAD, **words}


def serve() -> int:
    """A worker's life: a task a line on stdin, an answer a line on stdout; ends with stdin, or with 75 on SIGTERM."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, prints into the log
    stop = threading.Event()
    tasks: queue.Queue[str | None] = queue.Queue()

    def end(*_: Any) -> None:
        stop.set()
        tasks.put(None)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the build, which ends its workers

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(line)
        os._exit(STOPPED_STATUS)  # the build is gone: nobody waits for what is under way

    threading.Thread(target=listen, daemon=True).start()
    settings, zygote = artifacts.settings(), kernels.Zygote()
    while (line := tasks.get()) is not None and not stop.is_set():
        print(json.dumps(perform(json.loads(line), settings, stop, zygote=zygote)), file=answers, flush=True)
    zygote.close()
    return STOPPED_STATUS


def perform(
    message: dict[str, Any],
    settings: Settings,
    stop: threading.Event,
    faces: data.Faces | None = None,
    zygote: kernels.Zygote | None = None,
) -> dict[str, Any]:
    """Make the page or train the run of a message: its state, or the error in a sentence."""
    try:
        if message["kind"] == "page":
            return _make_page(message, settings, zygote)
        from fer_core import watch

        params = schema.resolve(schema.check(message["params"], "run"), sample=False)
        faces = faces or data.open_faces(settings.data, settings.store)
        run = watch.train_or_load(params, settings, faces, None, params.time_limit_minutes, stop.is_set)
        state = run.state if run.state != "missing" else "cut"  # by its time limit, before the first epoch's end
        return {"state": state, "key": run.key}
    except Exception as fault:
        return {"error": fault_words(fault, settings)}


def fault_words(fault: Exception, settings: Settings) -> str:
    """What a worker says of a fault, in a sentence; a training that was told to stop ends the process."""
    if isinstance(fault, FerError):
        return str(fault)
    if type(fault).__name__ == "Stopped":
        sys.exit(STOPPED_STATUS)
    traceback.print_exc()
    full = getattr(fault, "errno", None) == errno.ENOSPC
    return report.NO_SPACE if full else report.hide_paths(f"{type(fault).__name__}: {fault}", settings)


def _make_page(message: dict[str, Any], settings: Settings, zygote: kernels.Zygote | None) -> dict[str, Any]:
    plan = Plan(settings, [message["name"]])
    (made,) = plan.chosen
    drawn = drawn_on(plan, made.name)
    runs = [run.found or Run(run.key, run.params, run_folder(settings.store, run.key)) for run in drawn]
    own = runs[0] if made.own else None
    # Code and parameters as they were planned; which runs stand in or are owed, as it is by now: one may have failed.
    inputs = message["inputs"] | {name: made.inputs[name] for name in ("stand_ins", "claims") if name in made.inputs}
    lock = settings.store / "work" / settings.name / f"{made.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    before, after = made.inputs["neighbours"]
    with FileLock(lock):  # two commands at once make it one after the other
        failure = report.make_page(made.page, made.params, settings, runs, own, inputs, (before, after), zygote)
    if failure:
        return {"error": str(failure)}
    record = read_json(own.folder / "run.json") or {} if own else {}
    return {"state": "cut" if record.get("state") == "cut" else "done"}


# --------------------------------------------------------------------------------------------------------------- build


class Build:
    """Workers over the tasks of a plan, with progress for whoever looks.

    With an engine the workers make pages only; the runs go to it, more of them at a time than there are workers.
    """

    def __init__(self, plan: Plan, jobs: int, engine: Engine | None = None) -> None:
        self.plan, self.jobs, self.engine = plan, jobs, engine
        self.waiting = tasks_of(plan, apart=engine is not None or report.key_stays_out())
        self.running: dict[str, Task] = {}
        self.finished: set[str] = set()
        self.failures: dict[str, str] = {}
        self.cut: list[str] = []
        self.total = len(self.waiting)
        store = plan.settings.store
        self.workers = [Worker(plan.settings, store / f"worker-{number}.log") for number in range(jobs)]
        self.stopped = False
        self.lock = threading.Condition()
        self.progress = Progress(self)

    def _next(self, kinds: tuple[str, ...]) -> Task | None:
        """A ready task, waiting for one where others still run; None when there is nothing left to do."""
        with self.lock:
            while any(task.message["kind"] in kinds for task in self.waiting):
                open_keys = {key for task in [*self.waiting, *self.running.values()] for key in (task.key, task.name)}
                ready = [task for task in self.waiting if not task.after & open_keys]
                if not ready and not self.running:  # pages that wait for each other: a run's lock lets one go first
                    ready = self.waiting
                task = next((task for task in ready if task.message["kind"] in kinds), None)
                if task is not None:
                    self.waiting.remove(task)
                    self.running[task.name] = task
                    return task
                self.lock.wait(1.0)
        return None

    def _done(self, task: Task, answer: dict[str, Any]) -> None:
        with self.lock:
            del self.running[task.name]
            if self.stopped:  # by Ctrl-C or SIGTERM: that its worker is gone is no failure of the task
                return
            failed = run_folder(self.plan.settings.store, task.key) / FAILED
            if "error" in answer:
                self.failures[task.name] = answer["error"]
                if task.key:
                    artifacts.write_json(failed, {"error": answer["error"]})
            elif task.key:
                failed.unlink(missing_ok=True)
            if answer.get("state") == "cut":
                self.cut.append(task.name)
            self.finished.add(task.name)
            self.progress.ended(task, answer)
            if self.engine and task.message["kind"] == "run" and answer.get("state") not in artifacts.FINISHED:
                self._leave_out(task)
            self.lock.notify_all()

    def _leave_out(self, run: Task) -> None:
        """Pages of a run that the engine did not finish: made here, they would train it here."""
        for page in [task for task in self.waiting if run.key in task.after]:
            self.waiting.remove(page)
            self.finished.add(page.name)
            if run.name in self.failures:
                self.failures[page.name] = f"its run {run.name} failed"

    def _work(self, hand: Worker | Engine, kinds: tuple[str, ...]) -> None:
        while (task := self._next(kinds)) is not None:
            try:
                answer = hand.do(task.message)
            except Exception as fault:  # a thread that died would leave its task under way for ever
                answer = {"error": f"{type(fault).__name__}: {fault}"}
            self._done(task, answer)
        if isinstance(hand, Worker):  # an engine has other threads
            hand.close()

    def run(self) -> None:
        """All tasks, JOBS at a time. Ctrl-C ends the workers: trainings go on from their checkpoints next time."""
        kinds = ("page",) if self.engine else ("page", "run")
        work: list[tuple[Worker | Engine, tuple[str, ...]]] = [(worker, kinds) for worker in self.workers]
        if self.engine is not None:
            runs = sum(task.message["kind"] == "run" for task in self.waiting)
            work += [(self.engine, ("run",))] * min(runs, self.engine.in_flight)
        threads = [threading.Thread(target=self._work, args=args, daemon=True) for args in work]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self.progress.tick()
                time.sleep(0.2)
        except BaseException:
            self.stopped = True
            self.waiting.clear()
            for process in [worker.process for worker in self.workers]:  # all are told before any is waited for
                if process is not None:
                    process.terminate()
            for worker in self.workers:
                worker.close()
            raise
        finally:
            if self.engine is not None:
                self.engine.close()
            self.progress.close()


class Progress:
    """One living line on a terminal; elsewhere a plain line whenever something ends."""

    def __init__(self, build: Build) -> None:
        self.build, self.living = build, sys.stderr.isatty()
        self.started = time.monotonic()
        self.worth = sum(task.seconds for task in build.waiting)
        self.spent = 0.0
        self.last = 0.0
        self.told: set[str] = set()

    def left(self) -> str:
        """The time left, by how the tasks so far compared with their estimates; a short one alone says little."""
        elapsed = time.monotonic() - self.started
        at_once = self.build.engine.slots if self.build.engine else self.build.jobs
        seconds = max(0.0, self.worth / at_once - elapsed)
        if self.spent:
            pace = (elapsed * at_once + SURE_SECONDS) / (self.spent + SURE_SECONDS)
            seconds = pace * max(0.0, self.worth - self.spent) / at_once
        return f"about {_time(seconds)} left"

    def ended(self, task: Task, answer: dict[str, Any]) -> None:
        self.spent += task.seconds
        word = "FAILED" if "error" in answer else answer.get("state", "done")
        done = len(self.build.finished)
        self._line(f"[{done}/{self.build.total}] {task.message['kind']} {task.name}: {word} · {self.left()}")
        if "error" in answer:
            self._line(f"    {answer['error']}")

    def tick(self) -> None:
        under_way = []
        for task in list(self.build.running.values()):
            folder = run_folder(self.build.plan.settings.store, task.key)
            progress = (read_json(folder / "progress.json") if task.key else None) or {}
            if "resuming" in progress and task.key not in self.told:
                self.told.add(task.key)
                self._line(f"{task.name}: resuming at epoch {progress['resuming']} of {progress['epochs']}")
            epoch = f" epoch {progress['epoch']}/{progress['epochs']}" if "epoch" in progress else ""
            under_way.append(task.name + epoch)
        if self.living and time.monotonic() - self.last > 0.5:
            self.last = time.monotonic()
            text = f"{len(self.build.finished)}/{self.build.total} done · {' | '.join(under_way)} · {self.left()}"
            self._line(text[: os.get_terminal_size(2).columns - 1], end="")

    def _line(self, text: str, end: str = "\n") -> None:
        print(f"\r\033[K{text}" if self.living else text, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.living:
            self._line("", end="")


# ------------------------------------------------------------------------------------------------- tables and the index


def results(plan: Plan) -> list[dict[str, Any]]:
    """results.csv: a row a page and run, finished ones only."""
    # Of a page that wants one run twice (the sample's ceilings make arms alike) one row.
    rows = {(page.name, run.key): _result(page, run) for page in plan.pages.values() for run in page.finished}
    return list(rows.values())


def _result(page: PagePlan, run: Run) -> dict[str, Any]:
    row = {name: run.metrics.get(name) for name in artifacts.RESULT_COLUMNS} | {
        "page": page.name,
        "notebook": page.page.notebook,
        "network": run.params.network,
        "seed": run.params.seed,
        "validation_accuracy": run.metrics["validation"]["accuracy"],
        "training_key": run.key,
    }
    for part in ("test_official", "test_leak_free"):
        scores = run.metrics.get(part, {}) if page.params.score_test else {}
        row |= {f"{part}_accuracy": scores.get("accuracy")}
        row |= {f"{part}_{end}": scores.get(f"accuracy_{end}") for end in ("low", "high")}
    return row


def claim_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row a claim whose runs are all finished: claims.csv's, and in its page's words the effect, `told`, and by what
    else the verdict came, `decided`.
    """
    rows = []
    for page in plan.pages.values():
        arms = {arm: [run.found for run in runs if run.found is not None] for arm, runs in page.arms.items()}
        if not page.params.arms or any(len(arms[arm]) < len(page.arms[arm]) for arm in arms):
            continue
        if page.params.score_test and plan.tested and not all(run.scored for runs in arms.values() for run in runs):
            continue
        verdict = claims.judge(page.params, arms, plan.settings.sample)
        row = {name: getattr(verdict, name) for name in ("effect", "low", "high", "n", "rule", "verdict")}
        words = {"told": claims.told_effect(verdict.conditions[0]), "decided": claims.decided_by(verdict)}
        rows.append({"claim": page.params.claim, "page": page.name, **words, **row})
    return rows


def compare(plan: Plan, names: Sequence[str]) -> bool:
    """Make the page that sets these pages side by side; False where it is current already.

    Raises
    ------
    ParameterError : fewer than two pages, one that trains nothing, or one whose first run is not finished.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        schema.load_page(name)
        if name not in plan.pages or plan.pages[name].own is None:
            raise ParameterError(f"{name} has no run of its own to compare: name pages of 01 to 04, 06 or 07.")
    if len(names) < 2:
        raise ParameterError(f'compare needs two pages or more, got {len(names)}: PAGES="01_basic_cnn/default …"')
    pages = [plan.pages[name] for name in names]
    for page in pages:
        if page.runs[0].found is None:
            command = f"make report PAGE={page.name}{report.variables(plan.settings)}"
            raise ParameterError(f"{page.name} has no finished run yet: {command} first.")
    keys = {page.name: [run.key + run.foreign for run in page.finished] for page in pages}
    shown = {page.name: [schema.stated(page.params), page.finished[0].scored, keys[page.name]] for page in pages}
    code = artifacts.code_fingerprint("compare.py", "leaderboard.py")
    rendering = plan.rendering | {"compare.py": code}
    inputs = _as_stored({"data": plan.data_hash, "pages": shown, "rendering": rendering} | plan.own)
    folder = plan.settings.reports / report.comparison_name(names)
    stood, html = read_json(folder / "page.json"), report.page_file(folder)
    if stood and stood["inputs"] == inputs and html.exists() and digest(html.read_bytes()) == stood["html"]:
        return False
    from fer_core import compare as comparison  # it draws: not imported where nothing is to be drawn

    comparison.make(compared_sides(plan, names), plan.settings, inputs)
    return True


def compared_sides(plan: Plan, names: Iterable[str]) -> list[Any]:
    """The pages with their finished runs, as `compare` takes them."""
    from fer_core import compare as comparison

    pages = [plan.pages[name] for name in names]
    return [comparison.Side(page.name, page.params, tuple(page.finished)) for page in pages]


def compare_study(plan: Plan) -> dict[str, list[str]]:
    """Bring up to date the comparisons that the study makes and those that somebody asked for.

    Returns
    -------
    The pages of each that stands, by its name; one is left out where a page is gone or its first run is not there.
    """
    final, records = leaderboard.final_page(results(plan)), plan.settings.reports.glob("compare/*/page.json")
    wanted = [[name or final or "" for name in names] for names in report.COMPARED]
    wanted += [told["pages"] for record in sorted(records) if (told := read_json(record))]
    trained = {page.name for page in plan.pages.values() if page.own and page.own.found}
    standing = {report.comparison_name(names): names for names in wanted if trained.issuperset(names)}
    for names in standing.values():
        compare(plan, names)
    return standing


def compare_pages(settings: Settings, names: Sequence[str]) -> int:
    """`make compare`: the page of these pages, and the index that links it."""
    plan = Plan(settings)
    made = compare(plan, names)
    write_tables(plan, {})
    page = settings.reports / f"{report.comparison_name(dict.fromkeys(names))}.html"
    print(f"{'made' if made else 'current'}: {page}")
    return 0


def write_tables(plan: Plan, failures: dict[str, str]) -> None:
    """results.csv, claims.csv and index.html from what stands in OUT now; skipped where none of it has changed."""
    standing = compare_study(plan)
    entries = [entry(page, plan, failures) for page in plan.pages.values()]
    entries += [
        {"name": name, "title": params.claim, "finding": f"Does not apply, since it {NOT_HERE}.", "state": "elsewhere"}
        | {"href": None, "reason": NOT_HERE, "key": None}
        for name, params in plan.elsewhere.items()
    ]
    order = schema.page_names()
    entries.sort(key=lambda entry: order.index(entry["name"]))
    mark = plan.settings.store / f"index-{plan.settings.name}.json"
    compared = report.comparisons(plan.settings.reports, standing)
    swept = report.sweeps(plan.settings.reports)
    code = artifacts.code_fingerprint("build.py", "leaderboard.py", "limits.py")
    state, stood = digest([entries, compared, swept, plan.rendering, code]), read_json(mark) or {}
    files = {plan.settings.reports / name: known for name, known in stood.get("files", {}).items()}
    whole = files and all(file.exists() and digest(file.read_bytes()) == known for file, known in files.items())
    if whole and stood.get("state") == state:
        return
    made = tables(plan, entries, compared, swept)
    for name, content in made.items():
        artifacts.write_bytes(plan.settings.reports / name, content)
    artifacts.write_json(mark, {"state": state, "files": {name: digest(content) for name, content in made.items()}})


def tables(plan: Plan, entries: Rows, compared: Rows, swept: Rows) -> dict[str, bytes]:
    """results.csv, claims.csv, the index and the pages that belong to it, by file name."""
    rows, judged = results(plan), claim_rows(plan)
    scored = len({row["training_key"] for row in rows if row["test_official_accuracy"] is not None})
    contenders = [
        leaderboard.Contender(page.name, page.shown, tuple(map(_curve, page.finished)), _states(page.results, plan))
        for page in plan.pages.values()
        if page.own is not None
    ]
    index = report.render_index(plan.settings, entries, rows, judged, scored, contenders, compared, plan.fer2013, swept)
    stored = [{name: row[name] for name in artifacts.CLAIM_COLUMNS} for row in judged]
    files = {
        "results.csv": artifacts.csv_bytes(artifacts.RESULT_COLUMNS, rows),
        "claims.csv": artifacts.csv_bytes(artifacts.CLAIM_COLUMNS, stored),
        glossary.FILE: report.render_glossary(plan.settings, bool(plan.own)).encode(),
    }
    if plan.fer2013:
        runs = {run.key: run.found for page in plan.pages.values() for run in page.runs if run.found is not None}
        faces = data.open_faces(plan.settings.data, plan.settings.store)
        found = limits.facts(faces, list(runs.values()), rows)
        files[limits.FILE] = report.render_limits(plan.settings, found).encode()
    return {**files, "index.html": index.encode()}


def entry(page: PagePlan, plan: Plan, failures: Mapping[str, str]) -> dict[str, Any]:
    """What the index says of a page."""
    folder = plan.settings.reports / page.name
    made = read_json(folder / "page.json") or {}
    failed = bool(page.reasons) and report.page_file(folder, ".failed.html").exists()
    state = "failed" if failed else "done" if not page.reasons else "stale" if made else "missing"
    ending = ".failed.html" if failed else ".html"
    return {
        "name": page.name,
        "title": made.get("title", page.name),
        "finding": made.get("finding", ""),
        "state": state,
        "href": f"{page.name}{ending}" if failed or made else None,
        "reason": failures.get(page.name, "; ".join(page.reasons)),
        "key": made.get("report_key"),
        "runs": _states(page.runs, plan),
    }


def _states(runs: Iterable[WantedRun], plan: Plan) -> dict[str, int]:
    """How many are done, diverged, failed, cut, stale or missing; one begun that has not ended is missing too."""
    told = Counter[str]()
    for run in runs:
        folder = run_folder(plan.settings.store, run.key)
        state = run.found.state if run.found else "failed" if (folder / FAILED).exists() else None
        state = state or (read_json(folder / "run.json") or {}).get("state")
        if state is None or (run.found is None and state in artifacts.FINISHED):  # or it has lost files
            # Stale: trained by other code, on another device, in another precision or on other threads.
            state = "stale" if run.wanted.identity in plan.identities else "missing"
        told[state] += 1
    return dict(told)


def _curve(run: Run) -> tuple[float | None, ...]:
    """Validation accuracy by epoch, read without pandas: the index is made in a process that needs none."""
    with (run.folder / "history.csv").open(encoding="utf-8", newline="") as file:
        return tuple(leaderboard.value(row, "validation_accuracy") for row in csv.DictReader(file))


def build(
    settings: Settings, names: Iterable[str] | None, jobs: int, connect: Callable[[Settings], Engine] | None = None
) -> int:
    """Make what is not current; returns the exit status: 0, 1 with a list of failures, 75 where a limit cut runs.

    `connect` gives the engine that trains, where there is something to train.
    """
    plan = Plan(settings, names)
    plan.check_chosen()
    if not plan.stale:
        write_tables(plan, {})
        whole = "the page is" if len(plan.chosen) == 1 else f"all {len(plan.chosen)} pages are"
        print(f"{settings.name}: {whole} current: {settings.reports / 'index.html'}")
        return 0
    pages, runs = counted(len(plan.stale), "page"), counted(len(plan.missing_runs()), "run")
    print(f"{pages} to make, {runs} to train, JOBS={jobs}.", file=sys.stderr)
    engine = connect(settings) if connect and plan.missing_runs() else None
    work = Build(plan, jobs, engine)
    work.run()
    after = Plan(settings, names, ended=True)
    write_tables(after, work.failures)
    if not work.cut:
        left = [page for page in after.chosen if page.reasons and page.name not in work.failures]
        work.failures |= {page.name: f"not current after all: {'; '.join(page.reasons)}" for page in left}
    if work.failures:
        print(f"\n{len(work.failures)} failed:")
        for name, why in work.failures.items():
            print(f"  {name}: {why}")
        return 1
    if work.cut:
        print(f"{len(work.cut)} runs were cut by their time limit; the next call goes on: {', '.join(work.cut)}")
        return STOPPED_STATUS
    print(f"{settings.name}: {pages} made: {settings.reports / 'index.html'}")
    return 0
