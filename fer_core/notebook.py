"""What the notebooks call: parameters in, runs out, and what a page shows of them.

Nothing here trains or measures by itself: it joins the modules that do, so that a notebook's cell is a line or two.
What a cell shows follows from parameters, data and runs alone: no clock, no path. torch is imported only where a page
trains, scores or explains: a claim's page of finished runs starts without it.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from fer_core import artifacts, claims, data, devices, evaluation, plots, schema
from fer_core.artifacts import WATCHED_FILE, Run, find_run, run_key, settings
from fer_core.claims import told as interval
from fer_core.data import Faces
from fer_core.schema import FerError, Params, counted, listed, percent


class Table(pd.DataFrame):
    """A DataFrame that a page shows whole: every row, no cell cut short."""

    @property
    def _constructor(self) -> type[Table]:
        return Table

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> Table:
        """Rows under `columns`, the first of which names the rows.

        Parameters
        ----------
        rows : a sequence each
        columns : names, the first of which heads the index
        """
        return cls(list(rows), columns=list(columns)).set_index(columns[0])

    def _repr_html_(self) -> str:
        named = self.index.name is not None  # then a column of its own: pandas would give the name a row of its own
        shown = self.reset_index() if named else self
        with pd.option_context("display.max_colwidth", None, "display.max_rows", None):
            return shown.to_html(border=0, na_rep="–", index=not named)


def with_interval(metrics: Mapping[str, Any]) -> str:
    """Accuracy of a split in words.

    Parameters
    ----------
    metrics : one split of metrics.json

    Returns
    -------
    str : its accuracy with Wilson's interval
    """
    return interval([metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"]])


def over_seeds(runs: Iterable[Run], metric: str) -> str:
    """A metric's mean over runs with its interval over seeds.

    Parameters
    ----------
    runs : of one setting, a seed each
    metric : of `claims.metric_of`

    Returns
    -------
    str : `61.2 % [59.6, 62.8]`
    """
    return of_seeds(claims.arm_interval([claims.metric_of(run, metric) for run in runs], metric), metric)


def of_seeds(found: evaluation.Interval, metric: str = "", change: bool = False) -> str:
    """A mean over seeds in words; of two the mean alone, since Student's interval over two values says nothing.

    Parameters
    ----------
    found : of `claims.arm_interval`, `claims.difference` or `evaluation`
    metric : names the unit: a share, points or nats
    change : whether it is a difference, with its sign

    Returns
    -------
    str
    """
    return interval(found if found.n > 2 or metric == "at_chance" else (found.value, None, None), metric, change)


def sentence(text: str) -> Markdown:
    """A finding as the page shows it.

    Parameters
    ----------
    text : without its full stop

    Returns
    -------
    Markdown : marked where the data is drawn
    """
    drawn = " (on drawn sample data, which says nothing about FER2013)" if settings().sample else ""
    return Markdown(f"{text}{drawn}.")


# -- data and parameters


_faces = functools.lru_cache(maxsize=2)(data.open_faces)


def open_faces() -> Faces:
    """The images that FER_DATA names, or the drawn sample; opened once a session.

    Returns
    -------
    Faces
    """
    return _faces(settings().data, settings().store)


def parameters(notebook: str, names: Mapping[str, Any]) -> Params:
    """The parameters of this notebook among `names` (its `globals()`), checked, all layers applied.

    Over them come the sample's ceilings (params/sample.yaml) where the data is drawn, then FER_SET. The first of
    `seeds` becomes `seed`, that of the run which a page shows in detail.

    Parameters
    ----------
    notebook : its name, as 04_complex_cnn
    names : its `globals()`

    Returns
    -------
    Params

    Raises
    ------
    ParameterError: a value of the wrong type or out of range.
    """
    known, setting = schema.notebook_parameters(notebook), settings()
    values = schema.check({n: names[n] for n in known if n in names}, f"notebooks/{notebook}.ipynb", known)
    params = schema.resolve(values, setting.sample, {k: v for k, v in setting.set_values.items() if k in known})
    return dataclasses.replace(params, seed=params.seeds[0])


def parameter_table(params: Params, notebook: str) -> Table:
    """The parameters of this page: those of the notebook's own cell and all others that are not at their default.

    Parameters
    ----------
    params : the page's parameters, of `parameters`
    notebook : its name

    Returns
    -------
    Table : parameter, value, notebook's default, whether it differs, what it is
    """
    own = schema.notebook_defaults(notebook)
    defaults = {name: own.get(name, getattr(schema.DEFAULTS, name)) for name in schema.notebook_parameters(notebook)}
    run, (params, _) = finished(params), devices.resolve(params, settings().device)
    params = run.settled(params) if run else params
    rows = []
    for name, default in sorted(defaults.items(), key=lambda item: item[0] not in own):
        value = getattr(params, name)
        if name in own or value != default:
            mark = "" if value == default or default == "auto" else "◂\u00a0differs"
            rows.append((name, plain(value), plain(default), mark, schema.SPECS[name].about))
    return Table.of(rows, ["parameter", "value", "notebook's default", "", "what it is"])


def plain(value: Any) -> str:
    """A parameter's value as a table shows it.

    Parameters
    ----------
    value : of a YAML; None reads "none"

    Returns
    -------
    str
    """
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return "; ".join(f"{name}: {plain(inner)}" for name, inner in value.items()) or "none"
    return "none" if value is None else str(value)


def network_table(params: Params) -> Table:
    """The network that `params` describe: layers, output shapes, parameters, multiply-adds, and their sums.

    Parameters
    ----------
    params : the page's parameters, of `parameters`

    Returns
    -------
    Table : layer, output shape, parameters, multiply-adds (for one image)
    """
    from fer_core import explain, networks

    faces = open_faces()
    network = networks.build(params, faces.image_size, faces.channels, len(faces.classes))
    layers = explain.layer_table(network, faces.image_size, faces.channels)
    rows = [*layers.itertuples(index=False), ("all", "", layers["parameters"].sum(), layers["multiply_adds"].sum())]
    columns = ["layer", "output shape", "parameters", "multiply-adds"]
    return Table.of([(*row[:2], f"{row[2]:,}", f"{row[3]:,}") for row in rows], columns)


def sanity_checks(params: Params) -> Table:
    """Checks that take seconds and tell a broken loop from a hard problem.

    Parameters
    ----------
    params : those of the run to come

    Returns
    -------
    Table : check, expected, found, ok (yes or no)
    """
    here, faces = settings(), open_faces()
    resolved, device = devices.resolve(params, here.device)
    # Kept by training key: they take longer than all the rest of a page of finished runs.
    kept = here.store / "checks" / f"{run_key(resolved, faces.data_hash, device).key}.json"
    rows = artifacts.read_json(kept)
    if rows is None:
        from fer_core import training

        rows = training.sanity_checks(params, faces)
        artifacts.write_json(kept, rows)
    checks = pd.DataFrame(rows)
    return Table(checks.assign(ok=["yes" if ok else "no" for ok in checks["ok"]]).set_index("check"))


def checks_line(checks: pd.DataFrame) -> str:
    """What `sanity_checks` found, in a sentence.

    Parameters
    ----------
    checks : of `sanity_checks`

    Returns
    -------
    str
    """
    failed = checks.index[checks["ok"] != "yes"]
    line = f"Of {len(checks)} checks before training"
    told = f", {len(failed)} {'does' if len(failed) == 1 else 'do'} not hold: {', '.join(failed)}."
    return line + (told if len(failed) else " all hold.")


def parameters_line(table: pd.DataFrame) -> str:
    """How many parameters a page has, and which differ from its notebook's.

    Parameters
    ----------
    table : of `parameter_table`

    Returns
    -------
    str
    """
    changed = table.index[table.iloc[:, 2] != ""]
    return f"{len(table)} parameters; {', '.join(changed) if len(changed) else 'none'} set by this page."


def network_line(table: pd.DataFrame) -> str:
    """The network in numbers.

    Parameters
    ----------
    table : of `network_table`

    Returns
    -------
    str
    """
    whole = table.loc["all"]
    size = f"{whole['parameters']} parameters, {whole['multiply-adds']} multiply-adds an image"
    return f"{len(table) - 1} layers, {size}."


def fold(line: str, table: Table, beside_faces: bool = False) -> None:
    """Show a table that opens with a click on its line.

    Parameters
    ----------
    line : what stands there while it is folded
    table : what opens
    beside_faces : whether it names the faces of a figure; where they are withheld, what stands in names them already
    """
    content = _folded(line, table._repr_html_(), str(table))
    display(content, raw=True, metadata={"fer": {"beside_faces": True}} if beside_faces else {})


def _folded(line: str, body: str, text: str, state: str = "") -> dict[str, str]:
    """A fold as HTML and as plain text; `state` is its attribute, as " open"."""
    html = f"<details{state}><summary>{line}</summary>{body}</details>"
    return {"text/html": html, "text/plain": "\n".join(filter(None, (line, text)))}


# -- training


class Log:
    """A training's log: one output that grows while epochs come, and ends as what the runs' artifacts say."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.handle = display(_folded("starting", "<pre></pre>", ""), raw=True, display_id=True)

    def show(self, line: str, text: str, state: str = "") -> None:
        """Put this into the log's output, in place of what stood there.

        Parameters
        ----------
        line : what stands there folded
        text : what opens
        state : the fold's attribute, as " open"
        """
        if self.handle is not None:  # None outside a notebook
            self.handle.update(_folded(line, f"<pre>{text}</pre>", text, state), raw=True)

    def _epoch(self, row: dict[str, Any], what: str) -> None:
        """What `training.train_or_load` reports of a run: a row of the history, or that it resumes."""
        if "epoch" in row:
            self.rows.append(row)
        at = row.get("epoch") or f"{row['resuming']} (resuming)"
        self.show(f"{what}epoch {at} of {row['epochs']}", _epoch_lines(pd.DataFrame(self.rows)), " open")

    def obtain(self, params: Params, what: str = "") -> Run:
        """The run, loaded, resumed or trained, its epochs shown while they come.

        Parameters
        ----------
        params : of one run
        what : which run, in words
        """
        if (found := finished(params)) is not None:
            return found
        from fer_core import watch

        self.rows, told = [], functools.partial(self._epoch, what=what)
        run = watch.train_or_load(params, settings(), open_faces(), told, params.time_limit_minutes)
        if not run.metrics:
            raise FerError("time_limit_minutes ended before the first epoch did: allow more.")
        return run


def finished(params: Params) -> Run | None:
    """The run of these parameters if it is done or diverged already.

    Parameters
    ----------
    params : of one run

    Returns
    -------
    Run, or None
    """
    here = settings()
    resolved, device = devices.resolve(params, here.device)
    return find_run(resolved, run_key(resolved, open_faces().data_hash, device), here.store, here.published)


def scored(run: Run) -> Run:
    """The run with its test metrics; the test set is looked at once in a run's life.

    Parameters
    ----------
    run : finished

    Returns
    -------
    Run : with test_official and test_leak_free in its metrics
    """
    if run.scored:
        return run
    if not (run.folder / "model.safetensors").exists():
        raise run.lacks("its weights, and its test images are not scored yet")
    from fer_core import training

    return training.score_test(run, open_faces())


def _epoch_lines(history: pd.DataFrame) -> str:
    """A history as text, a line an epoch; a dash where a value is missing or not a number."""
    form = "{:>5} {:>9}  {:>10} {:>8}  {:>15} {:>8}".format
    lines = [form("epoch", "rate", "train loss", "accuracy", "validation loss", "accuracy")]
    names = ("learning_rate", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    for row in history.to_dict("records"):
        numbers = ["–" if pd.isna(row[n]) else f"{row[n]:.{6 if n == 'learning_rate' else 4}f}" for n in names]
        lines.append(form(int(row["epoch"]), *numbers))
    return "\n".join(lines)


def train_or_load(params: Params) -> Run:
    """The run of these parameters: loaded where it is finished, resumed where it was broken off, else trained.

    While it trains, the cell shows its epochs; what stays is the log printed from `run.history`, the same whichever
    of the three it was. `run` has .history, .metrics, .predictions, .selected_epoch and .state.

    Parameters
    ----------
    params : of one run, as of `parameters`

    Returns
    -------
    Run : .history and .predictions are DataFrames, .metrics a dict
    """
    log = Log()
    run = log.obtain(params)
    kept = f"the weights of epoch {run.selected_epoch} are kept ({plots.KEPT_BY[params.select]})"
    line = f"{len(run.history)} of {params.epochs} epochs, {run.state}; {kept}"
    if run.state == "cut":
        line += "; time_limit_minutes stopped it: what this page says is about an unfinished run"
    log.show(line, _epoch_lines(run.history))
    return run


def train_seeds(params: Params) -> list[Run]:
    """The runs of all `seeds`; the first is the one shown in detail, the others tell how much of it is chance.

    Parameters
    ----------
    params : the page's parameters, of `parameters`

    Returns
    -------
    list of Run, in the order of `params.seeds`
    """
    log, runs, lines = Log(), [], []
    for seed in params.seeds:
        run = log.obtain(dataclasses.replace(params, seed=seed), f"seed {seed}: ")
        accuracy = percent(run.metrics["validation"]["accuracy"])
        runs.append(run)
        lines.append(f"seed {seed}: {run.state}, {len(run.history)} epochs, validation accuracy {accuracy}")
    log.show(counted(len(runs), "seed"), "\n".join(lines))
    return runs


def score_test(params: Params, runs: Sequence[Run]) -> list[Run]:
    """The runs with their test metrics, where `params.score_test` lets this page look; else as they are.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds, the one in detail first

    Returns
    -------
    list of Run
    """
    return [scored(run) for run in runs] if params.score_test else list(runs)


# -- what came of it


@dataclass(frozen=True)
class Answers:
    """One run's answers on the split that a page reports: the test where it may be looked at, else validation."""

    run: Run
    split: str
    predictions: pd.DataFrame  # image_id, split, label, p_<class> …; labelled images only
    classes: tuple[str, ...]
    metrics: dict[str, Any]

    @property
    def scores(self) -> str:
        """The entry of metrics.json that `metrics` is."""
        return "test_official" if self.split == "test" else "validation"

    @property
    def leak_free(self) -> dict[str, Any] | None:
        """The metrics of those images that have no copy among the images before the test's; None on validation."""
        return self.run.metrics["test_leak_free"] if self.split == "test" else None

    @property
    def probabilities(self) -> np.ndarray:
        """float (n, k)"""
        return self.predictions[evaluation.probability_columns(self.predictions)].to_numpy(float)

    @property
    def labels(self) -> np.ndarray:
        """int (n,)"""
        return self.predictions["label"].to_numpy(int)

    @property
    def confusion(self) -> np.ndarray:
        """int (k, k), true by predicted"""
        return evaluation.confusion(self.labels, self.predicted, len(self.classes))

    @property
    def predicted(self) -> np.ndarray:
        """int (n,), −1 where the network answered NaN"""
        return evaluation.predicted_labels(self.probabilities)

    @property
    def calibration(self) -> Calibration:
        """How sure the answers are and how right, before and after temperature scaling.

        The temperature is fitted on validation images. Where these are also what the page shows, it is fitted on one
        half of them and shown on the other: on the images it was fitted on, any scaling looks good. Copies of an image
        are in the same half.
        """
        p, labels = self.probabilities, self.labels
        if self.split == "validation":
            half, images = _odd(self.predictions["image_id"]), "the other half"
            temperature = evaluation.fit_temperature(p[half], labels[half])
            p, labels = p[~half], labels[~half]
        else:
            validation, images = answers(schema.DEFAULTS, self.run), "the validation images"
            temperature = evaluation.fit_temperature(validation.probabilities, validation.labels)
        scaled = evaluation.calibration(evaluation.with_temperature(p, temperature), labels)
        return Calibration(evaluation.calibration(p, labels), scaled, temperature, images, len(labels))


def _odd(ids: pd.Series) -> np.ndarray:
    """Half of the images, by the last digit of their pixels' hash: copies of one picture go together."""
    return np.array([int(name.split("-")[0][-1], 16) % 2 == 1 for name in ids], bool)


class Calibration(NamedTuple):
    """For plots.reliability: tables of `evaluation.calibration`, the temperature, where it comes from, how many."""

    table: pd.DataFrame
    scaled: pd.DataFrame
    temperature: float
    images: str
    n: int


def may_show_test(params: Params, run: Run) -> bool:
    """Whether this page shows the run's test answers.

    Parameters
    ----------
    params, run : the page's parameters, and one of its runs, scored or not

    Returns
    -------
    bool
    """
    # Not `run.scored` alone: another page may have scored the run, and this page must not change by that.
    return params.score_test and run.scored


def _alike(params: Params, runs: Sequence[Run]) -> list[Run]:
    """Those with answers on the split that the first shows: one that was cut has none on the test yet."""
    return [run for run in runs if may_show_test(params, run) == may_show_test(params, runs[0])]


def answers(params: Params, run: Run) -> Answers:
    """The run's answers on the test set where this page may score it, else on its validation images.

    Parameters
    ----------
    params, run : the page's parameters, and its run in detail

    Returns
    -------
    Answers : .confusion, .calibration, .metrics of the split that the page reports
    """
    split, classes = "test" if may_show_test(params, run) else "validation", open_faces().classes
    rows = run.predictions[(run.predictions["split"] == split) & (run.predictions["label"] < len(classes))]
    metrics = run.metrics["test_official" if split == "test" else "validation"]
    by_class = {name: metrics["classes"][name] for name in classes}  # in their own order, not the file's
    return Answers(run, split, rows.reset_index(drop=True), classes, metrics | {"classes": by_class})


def scores(params: Params, run: Run) -> dict[str, Any]:
    """metrics.json without the test's part where this page may not look at it.

    Parameters
    ----------
    params, run : the page's parameters, and its run in detail

    Returns
    -------
    dict : parts of metrics.json, for plots.test_intervals
    """
    allowed = may_show_test(params, run)
    return {name: part for name, part in run.metrics.items() if allowed or not name.startswith("test_")}


def test_table(params: Params, runs: Sequence[Run]) -> Table | Markdown:
    """Test accuracy of each seed, official and leak-free, with the interval of sampling images; below, over seeds.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds, the one in detail first

    Returns
    -------
    Table : a row a seed and their mean; where the test was not looked at, a sentence
    """
    if not may_show_test(params, runs[0]):
        why = "there are no labelled test images" if params.score_test else "this page decides on validation"
        why = "this run was cut before its end" if runs[0].state == "cut" else why
        return Markdown(f"The test set was not looked at: {why}.")
    splits = {"test_official": "official", "test_leak_free": "leak-free"}
    runs = _alike(params, runs)
    rows = [(f"seed {run.params.seed}", *(with_interval(run.metrics[split]) for split in splits)) for run in runs]
    if len(runs) > 1:
        rows.append((f"mean over {len(runs)} seeds", *(over_seeds(runs, f"{split}_accuracy") for split in splits)))
    return Table.of(rows, ["", *(f"{name} (n = {runs[0].metrics[split]['n']:,})" for split, name in splits.items())])


def gap_sentence(run: Run) -> Markdown:
    """The generalisation gap in words, at the epoch that is kept.

    Parameters
    ----------
    run : the one in detail

    Returns
    -------
    Markdown
    """
    gap, clean = run.metrics.get("gap"), run.metrics.get("train_clean_accuracy")
    if gap is None:
        return Markdown("This run has no generalisation gap: no epoch was trained to its end.")
    text = (
        f"At epoch {run.selected_epoch} training accuracy, as trained, is {percent(run.metrics['train_accuracy'])}: "
        f"{abs(gap) * 100:.1f} points {'above' if gap >= 0 else 'below'} validation accuracy."
    )
    more = f" Without transforms and Dropout the network is right on {percent(clean)} of a sample of these images."
    views = f" Curves and gap are of one view of each image, all accuracies from here on of {run.params.test_views}."
    return Markdown(text + more * (clean is not None) + views * (run.params.test_views > 1))


@dataclass(frozen=True)
class Pictures:
    """Single images worth a look: id, label and answer of each, the images themselves, and a title each."""

    table: Table
    images: np.ndarray
    titles: list[str]
    finding: str

    @property
    def stand_in(self) -> dict[str, Any]:
        """What a published page shows instead: ids, labels and answers, for plots.show(stand_in=…)."""
        return stand_in(self.table)


def stand_in(table: pd.DataFrame, faces: Faces | None = None) -> dict[str, Any]:
    """What a published page shows in place of single faces: rows that name them, and the mean face of each class.

    Parameters
    ----------
    table : indexed by image_id, with a column `true`, and whatever else is known of each image
    faces : all images; unset: the page's

    Returns
    -------
    dict of columns, rows, size [height, width] and means {class: {"image/png": base64}}; no pixel of a single face
    """
    rows, faces = table.reset_index(), faces or open_faces()
    used, size = set(rows["true"]), list(faces.image_size)
    means = {name: {"image/png": png} for name, png in _mean_pngs(faces).items() if name in used}
    return {"columns": list(rows.columns), "rows": rows.to_numpy().tolist(), "size": size, "means": means}


def named(rows: np.ndarray) -> Table:
    """The images of these rows by id, with their true class: for `stand_in`.

    Parameters
    ----------
    rows : int (n,), into the images' canonical order

    Returns
    -------
    Table : image_id, true
    """
    faces = open_faces()
    names = np.array(faces.classes)[faces.labels[rows]]
    return Table.of(zip(faces.ids[rows], names, strict=True), ["image_id", "true"])


@functools.lru_cache(maxsize=2)
def _mean_pngs(faces: Faces) -> dict[str, str]:
    """The mean training face of each class as PNG in base64; none of a class with too few faces to hide one."""
    from PIL import Image

    found = {}
    for code, name in enumerate(faces.classes):
        rows = np.flatnonzero((faces.labels == code) & (faces.usage == data.TRAINING))
        if len(rows) >= plots.FEW_FACES:
            picture, png = Image.fromarray(faces.images[rows].mean(0).round().astype(np.uint8)), io.BytesIO()
            picture.thumbnail((64, 64))
            picture.convert("L").quantize(32).save(png, "PNG", optimize=True)
            found[name] = base64.b64encode(png.getvalue()).decode()
    return found


def _pictures(rows: pd.DataFrame, finding: str) -> Pictures:
    faces = open_faces()
    names = np.array(faces.classes)
    sure = [percent(share, 0) for share in rows["confidence"]]
    lines = list(zip(rows["image_id"], names[rows["label"]], names[rows["predicted"]], sure, strict=True))
    images = faces.images[pd.Index(faces.ids).get_indexer(rows["image_id"])]
    titles = [f"{true}\n→ {answer}\n{share}" for _, true, answer, share in lines]
    return Pictures(Table.of(lines, ["image_id", "true", "predicted", "confidence"]), images, titles, finding)


def confident_mistakes(found: Answers, n: int = 16) -> Pictures:
    """The n wrong answers of which the network was surest.

    Parameters
    ----------
    found : of `answers`
    n : how many at most

    Returns
    -------
    Pictures : surest first
    """
    rows = evaluation.most_confident_mistakes(found.predictions, n)
    least = _bound(rows["confidence"].min(), math.floor)
    return _pictures(rows, f"The {len(rows)} surest mistakes are given at least {least}" if len(rows) else "No mistake")


def _bound(share: float, towards: Callable[[float], int]) -> str:
    """A share in words, rounded so that it stays a bound."""
    return percent(towards(round(share * 1000, 6)) / 1000) if math.isfinite(share) else percent(None)


def least_certain(found: Answers, n: int = 16) -> Pictures:
    """The n images of which the network knew least.

    Parameters
    ----------
    found : of `answers`
    n : how many at most

    Returns
    -------
    Pictures : least certain first
    """
    rows = evaluation.least_certain(found.predictions, n)
    most = _bound(rows["confidence"].max(), math.ceil)
    return _pictures(rows, f"No class is given more than {most} on the {len(rows)} least certain images")


class Attention(NamedTuple):
    """Class means of where the network looks, right and wrong: for plots.attention."""

    means: np.ndarray  # float (2, k, h, w[, 3]), 0–255
    heat: np.ndarray  # float (2, k, h, w), 0–1
    counts: np.ndarray  # int (2, k)
    classes: tuple[str, ...]


def attention(found: Answers, at_most: int = 50) -> Attention:
    """Mean Grad-CAM map and mean face of the images that were given each answer, rightly and wrongly.

    Parameters
    ----------
    found : the answers of the run and split that the page shows
    at_most : images a mean, those first by id: enough for a steady mean, and a second of work

    Returns
    -------
    Attention : of means over fewer than plots.ENOUGH_FACES images nothing is drawn
    """
    faces, k, answer = open_faces(), len(found.classes), found.predicted
    order, right = np.argsort(found.predictions["image_id"].to_numpy(str)), answer == found.labels
    groups = [order[((answer == code) & of)[order]][:at_most] for of in (right, ~right) for code in range(k)]
    chosen = np.concatenate(groups)
    images = faces.images[pd.Index(faces.ids).get_indexer(found.predictions["image_id"].iloc[chosen])]
    counts = np.array([len(group) for group in groups])

    def mean(values: np.ndarray) -> np.ndarray:
        parts = np.split(values, counts.cumsum()[:-1])
        parts = [part.mean(0) if len(part) else np.zeros(values.shape[1:]) for part in parts]
        return np.stack(parts).reshape(2, k, *values.shape[1:])

    def heat() -> str:
        levels = (mean(_maps(found.run, images, answer[chosen])) * 255).round().astype(np.uint8)
        return base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()

    packed = found.run.derived("attention", [found.split, at_most], heat)
    levels = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
    warmth = levels.reshape(2, k, *images.shape[1:3]) / 255
    return Attention(mean(images.astype(np.float32)), warmth, counts.reshape(2, k), found.classes)


def _maps(run: Run, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """float32 (n, h, w): Grad-CAM of each image for its class, batch by batch."""
    import torch

    from fer_core import explain, training

    network = training.load_network(run, open_faces())
    with devices.ready("cpu", int(run.params.threads)):
        maps = [
            explain.grad_cam(network, training.to_input(images[part], run), torch.from_numpy(classes[part])).numpy()
            for part in (slice(at, at + 128) for at in range(0, len(images), 128))
        ]
    return np.concatenate(maps) if maps else np.zeros((0, *images.shape[1:3]), np.float32)


def _network(params: Params) -> str:
    """The network and what was added to it, as in "basic_cnn with BatchNorm and Dropout (0.25)"."""
    norm = params.batch_norm and "batch_norm" not in schema.settled(params.network)
    parts = ["BatchNorm"] * norm + [f"Dropout ({params.dropout:g})"] * (params.dropout > 0)
    return f"{params.network} with {listed(parts)}" if parts else params.network


def finding(params: Params, runs: Sequence[Run], original: float | None = None, kept_of: str = "") -> Markdown:
    """The page in one sentence, with its number, n, split and interval.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds, the one in detail first
    original : the test accuracy that the original states for such a network
    kept_of : or the one that it kept in the end, and of which run

    Returns
    -------
    Markdown
    """
    run, found = runs[0], answers(params, runs[0])
    m, metric, images = found.metrics, f"{found.scores}_accuracy", "validation images"
    text = f"{_network(params)} (seed {run.params.seed}) "
    if run.state == "diverged":
        why = run.provenance.get("reason")
        text += f"broke off ({why}): it " if why else "never left chance level: it "
    if free := found.leak_free:
        runs, images = _alike(params, runs), f"official test images and on {with_interval(free)} "
        images += f"of the {free['n']:,} that have no copy in Training or PublicTest"
    text += f"is right on {with_interval(m)} of the {m['n']:,} {images}"
    if len(runs) == 2:  # Student's interval over two values says nothing
        text += f"; seed {runs[1].params.seed} on {percent(claims.metric_of(runs[1], metric))}"
    elif len(runs) > 2:
        text += f"; its mean over {len(runs)} seeds is {over_seeds(runs, metric)} of the {m['n']:,}"
    text += f" (95 % intervals: over images{', and over seeds' * (len(runs) > 2)})"
    if (gap := run.metrics.get("gap")) is not None:
        text += f"; training accuracy, as trained, lies {abs(gap) * 100:.1f} points "
        text += f"{'above' if gap >= 0 else 'below'} that on validation images"
        text += " (both of one view of an image)" * (params.test_views > 1)
    if original is not None and found.split == "test" and data.is_fer2013(open_faces()):
        side = "below" if original < m["accuracy_low"] else "above" if original > m["accuracy_high"] else "within"
        figure = f"{original * 100:.4g} %"
        told = f"The {figure} that the original kept, of its own {kept_of}," if kept_of else f"The original's {figure}"
        text += f". {told} lies {side} the interval over official images"
    if run.state == "cut":
        text = f"Cut by its time limit after {len(run.history)} of {params.epochs} epochs, {text}"
    return sentence(text)


def ensemble(params: Params, runs: Sequence[Run]) -> Table:
    """The networks of all seeds answering together, their probabilities averaged, beside the mean of single ones.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds, the one in detail first

    Returns
    -------
    Table : images, n, mean of the networks, all together
    """
    runs = _alike(params, runs)
    rows = [
        (name.replace("_", " "), f"{m['n']:,}", over_seeds(runs, f"{name}_accuracy"), with_interval(m))
        for name, m in together(params, runs)
    ]
    return Table.of(rows, ["images", "n", f"mean of {len(runs)} networks [over seeds]", "all together [over images]"])


def together(params: Params, runs: Sequence[Run]) -> list[tuple[str, dict[str, Any]]]:
    """(part, metrics) of the probabilities averaged over runs, on the images that the page reports.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds, the one in detail first

    Returns
    -------
    list of (part, metrics), the widest part first
    """
    runs = _alike(params, runs)
    of = [[run.key, run.state] for run in runs], may_show_test(params, runs[0])
    return runs[0].derived("ensemble", of, lambda: _averaged(params, runs))


def _averaged(params: Params, runs: Sequence[Run]) -> list[tuple[str, dict[str, Any]]]:
    found, faces = [answers(params, run) for run in runs], open_faces()
    together, labels = np.mean([a.probabilities for a in found], axis=0), found[0].labels
    parts = {found[0].scores: np.ones(len(labels), bool)}
    if found[0].split == "test":
        split = data.make_split(faces)  # leak-free is the same set for every split
        parts["test_leak_free"] = np.isin(found[0].predictions["image_id"], faces.ids[split.test[split.leak_free]])
    return [(name, evaluation.metrics(together[part], labels[part], faces.classes)) for name, part in parts.items()]


def selection_optimism(params: Params, runs: Sequence[Run]) -> Table:
    """What picking the best epoch on the very images that are reported would have added, in single views.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds, the one in detail first

    Returns
    -------
    Table : last epoch, best epoch, gained by the choice; a row a seed and set of images: those of the test where this
        page may look at them and the run wrote them down by epoch
    """
    rows = []
    for run in runs:
        curves = {"validation": run.history["validation_accuracy"]}
        if may_show_test(params, run) and (run.folder / WATCHED_FILE).exists():
            seen = pd.read_csv(run.folder / WATCHED_FILE)
            curves["test, official"] = seen["test_official_accuracy"]
            curves["test, leak-free"] = seen["test_leak_free_accuracy"]
        for images, curve in curves.items():
            last, best = float(curve.iloc[-1]), float(curve.max())
            gained = interval([best - last, None, None], change=True)
            rows.append((f"seed {run.params.seed}", images, percent(last), percent(best), gained))
    return Table.of(rows, ["", "images", "last epoch", "best epoch", "gained by the choice"])
