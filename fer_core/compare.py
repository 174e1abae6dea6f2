"""Pages side by side: curves over seeds, what differs, and the answers to the same images, one by one.

A comparison is written as a notebook without code, so that the template, the figures' sources and the marks of face
pictures are those of every other page. It trains nothing and scores nothing: it reads finished runs. What is said about
single images is about the first seeds' runs, as everywhere; spread over seeds stands apart from it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fer_core import artifacts, claims, data, evaluation, leaderboard, plots, report, schema
from fer_core.artifacts import Run, Settings
from fer_core.data import Faces
from fer_core.notebook import Table, interval, of_seeds, stand_in
from fer_core.schema import Params, listed, percent

SHOWN = 16  # images that only one of two has right
SPLITS = {"validation": "validation", "test_official": "test, official", "test_leak_free": "test, leak-free"}


@dataclass(frozen=True)
class Side:
    """A training page in a comparison: its parameters and finished runs, the first seed's first."""

    name: str
    params: Params
    runs: tuple[Run, ...]

    @property
    def short(self) -> str:
        """As figures name it."""
        return self.name.removesuffix("/default")


@dataclass(frozen=True)
class Pair:
    """The first runs of two pages on the labelled images of a split that both answered, in order of image_id.

    Attributes
    ----------
    answers : float (n, k) each, the probabilities that a and b give
    asked : how many images each answered, of which the n are what they have in common
    """

    a: Side
    b: Side
    ids: np.ndarray
    labels: np.ndarray
    answers: tuple[np.ndarray, np.ndarray]
    asked: tuple[int, int]

    @cached_property
    def predicted(self) -> tuple[np.ndarray, np.ndarray]:
        a, b = map(evaluation.predicted_labels, self.answers)
        return a, b

    @property
    def n(self) -> int:
        return len(self.ids)

    @cached_property
    def mcnemar(self) -> tuple[int, int, float]:
        return evaluation.mcnemar(self.labels, *self.predicted)

    @cached_property
    def difference(self) -> evaluation.Interval:
        """Accuracy of b minus that of a, with its interval over images."""
        only_a, only_b, _ = self.mcnemar
        return evaluation.paired_difference(only_a, only_b, self.n)

    def right(self, place: int) -> np.ndarray:
        return self.predicted[place] == self.labels

    def table(self, classes: Sequence[str], of: np.ndarray | None = None) -> pd.DataFrame:
        """image_id, label, and answer and confidence of each, of the images that they answer differently."""
        rows = np.flatnonzero(self.predicted[0] != self.predicted[1]) if of is None else of
        names = np.array([*classes, "none"])  # −1, the answer of a network that gave NaN, is the last
        columns: dict[str, Any] = {"image_id": self.ids[rows], "label": names[self.labels[rows]]}
        for side, answer, p in zip((self.a, self.b), self.predicted, self.answers, strict=True):
            columns[side.short] = names[answer[rows]]
            columns[f"{side.short} confidence"] = np.round(p[rows].max(axis=1), 4)
        return pd.DataFrame(columns)

    def disagreements(self, place: int) -> np.ndarray:
        """Up to SHOWN images that only a (0) or only b (1) has right, the surest answers on both sides first."""
        rows = np.flatnonzero(self.right(place) & ~self.right(1 - place))
        sure = sum(np.nan_to_num(p[rows].max(axis=1)) for p in self.answers)
        return rows[np.lexsort((self.ids[rows], -sure))][:SHOWN]


def pair(a: Side, b: Side, split: str, classes: int, among: Iterable[str] | None = None) -> Pair:
    """What a and b answered to the same images of `split` ("validation" or "test"), of those `among` if given."""
    tables = []
    for side in (a, b):
        rows = side.runs[0].predictions
        rows = rows[(rows["split"] == split) & (rows["label"] < classes)].set_index("image_id").sort_index()
        tables.append(rows if among is None else rows[rows.index.isin(list(among))])
    common = tables[0].index.intersection(tables[1].index)
    columns = evaluation.probability_columns(tables[0])
    first, second = (table.loc[common, columns].to_numpy(float) for table in tables)
    labels = tables[0].loc[common, "label"].to_numpy(int)
    return Pair(a, b, common.to_numpy(str), labels, (first, second), (len(tables[0]), len(tables[1])))


# --------------------------------------------------------------------------------------------------------- the document


class Document:
    """Cells of a notebook that has no code: words, tables and figures."""

    def __init__(self) -> None:
        self.cells: list[Any] = []

    def words(self, text: str) -> None:
        self.cells.append(nbformat.v4.new_markdown_cell(text))

    def _output(self, content: dict[str, Any], metadata: dict[str, Any] | None = None, tag: str = "") -> None:
        output = nbformat.v4.new_output("display_data", content, metadata=metadata or {})
        tags = {"tags": [tag] if tag else []}
        self.cells.append(nbformat.v4.new_code_cell("", outputs=[output], metadata=tags))

    def finding(self, text: str) -> None:
        self._output({"text/markdown": text}, tag="finding")

    def table(self, table: Table, line: str = "", beside_faces: bool = False, sortable: bool = False) -> None:
        """A table; with `line` folded under it; `sortable` by a click on a column's head."""
        body = table._repr_html_()
        if sortable:
            body = body.replace("dataframe", "dataframe sortable", 1)
        content = {"text/html": f"<details><summary>{line}</summary>{body}</details>" if line else body}
        self._output(content, {"fer": {"beside_faces": True}} if beside_faces else None)

    def figure(self, axes: Axes | np.ndarray, lead: str, source: str, stand_in: dict[str, Any] | None = None) -> None:
        png, metadata = plots.picture(axes, lead, source, stand_in)
        told = {"image/png": base64.b64encode(png).decode(), "text/plain": metadata["image/png"]["alt"]}
        self._output(told, metadata)

    def notebook(self) -> Any:
        return nbformat.v4.new_notebook(cells=self.cells)


def document(sides: Sequence[Side], faces: Faces, sample: bool) -> Document:
    """The comparison of two pages or more; all others are compared with the first."""
    made, first, k = Document(), sides[0], len(faces.classes)
    pairs = [pair(first, other, "validation", k) for other in sides[1:]]
    made.words(f"# {title(sides)}")
    made.finding(finding(pairs, sample))
    _compared(made, sides)
    _curves(made, sides)
    _seeds(made, sides)
    _same_images(made, pairs, faces)
    for found in pairs:
        if found.n:
            _by_class(made, found, faces.classes)
            _images(made, found, faces)
    return made


def title(sides: Sequence[Side]) -> str:
    return " against ".join([sides[0].short, ", ".join(side.short for side in sides[1:])])


def finding(pairs: Sequence[Pair], sample: bool) -> str:
    """The page in a sentence for each pair: both accuracies, their difference with its interval, and McNemar's p."""
    told = []
    for found in pairs:
        if not found.n:
            told.append(f"{found.b.short} and {found.a.short} have no validation image in common")
            continue
        shares = [percent(float(found.right(place).mean())) for place in (1, 0)]
        p = _p(found.mcnemar[2])
        change = f"{interval(found.difference, change=True)} over images, "
        change += f"McNemar's exact p {'' if p.startswith('<') else '= '}{p}"
        over = _difference(found.a, found.b)
        told.append(
            f"Of the same {found.n:,} validation images {found.b.short} has {shares[0]} right, {found.a.short} "
            f"{shares[1]}, each with its first seed: a difference of {change}"
            + f"; over {over.n} seeds it is {interval(over, change=True)}"
            * (over.n > 2)
        )
    drawn = " (on drawn sample data, which says nothing about FER2013)" if sample else ""
    return ". ".join(told) + f"{drawn}."


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _compared(made: Document, sides: Sequence[Side]) -> None:
    made.words("## What is compared")
    rows = []
    for side in sides:
        states = [f"seed {run.params.seed}: {run.state}" for run in side.runs if run.state != "done"]
        seeds = ", ".join(str(run.params.seed) for run in side.runs)
        size = side.runs[0].metrics.get("parameters")
        known = f"{size:,}" if size else "–"
        rows.append((side.name, side.params.network, known, seeds, "; ".join(states) or "all done"))
    made.table(Table.of(rows, ["page", "network", "parameters", "seeds", "runs"]))
    if ways := claims.mixture({side.name: [run.provenance for run in side.runs] for side in sides}):
        made.words(f"**The runs were computed in {listed(ways)}:** that, too, may be behind any difference.")
    differing, _ = leaderboard.differing([side.runs[0].settled(side.params) for side in sides])
    if not differing:
        made.words("No parameter of training differs.")
        return
    made.words("Only these parameters differ:")
    table = [(name, *values, schema.SPECS[name].about) for name, values in differing.items()]
    made.table(Table.of(table, ["parameter", *(side.short for side in sides), "what it is"]))


def _curves(made: Document, sides: Sequence[Side]) -> None:
    made.words(
        "## Training\n\nA line is the mean over seeds, the band reaches from the lowest seed to the highest."
        " Where pages split differently, their validation images are not the same."
    )
    histories = {side.short: [run.history for run in side.runs] for side in sides}
    for column in ("validation_accuracy", "validation_loss"):
        axes = plots.arm_curves(histories, column, band=True)
        lead = f"{column.replace('_', ' ').capitalize()} by epoch, mean and range over seeds."
        made.figure(axes, lead, f"history.csv of every run: epoch, {column}")


def _seeds(made: Document, sides: Sequence[Side]) -> None:
    made.words(
        "## Over seeds\n\nHow far each figure moves with other seeds on the same images. The difference is taken seed"
        " by seed over the seeds that both pages ran; in brackets its 95 % interval, from three such seeds on."
    )
    rows = []
    for side in sides:
        mean, gap = (
            of_seeds(evaluation.mean_interval(claims.metric_of(run, name) for run in side.runs), name)
            for name in ("validation_accuracy", "gap")
        )
        change = "–" if side is sides[0] else of_seeds(_difference(sides[0], side), change=True)
        rows.append((side.name, len(side.runs), mean, gap, change))
    columns = ["page", "seeds", "validation accuracy", "gap [over seeds]", f"difference to {sides[0].short}"]
    made.table(Table.of(rows, columns))
    views = {side.short: side.params.test_views for side in sides if side.params.test_views > 1}
    for name, n in views.items():
        made.words(f"Accuracies of {name} average {n} views of an image; its curve and gap are of one view.")


def _difference(a: Side, b: Side) -> evaluation.Interval:
    """Validation accuracy of b minus that of a over the seeds that both ran; over all of each where none is common."""
    common = {run.params.seed for run in a.runs} & {run.params.seed for run in b.runs}
    own, base = ([run for run in side.runs if not common or run.params.seed in common] for side in (b, a))
    return claims.difference(own, base, "validation_accuracy")[0]


def _same_images(made: Document, pairs: Sequence[Pair], faces: Faces) -> None:
    """McNemar's table: validation, and the test's splits where every page may score it."""
    made.words(
        "## The same images, one by one\n\nWhat both have right or both have wrong tells nothing about which is better."
        " McNemar's test looks at the rest, the images that only one has right: were the two equally good, these would"
        " fall to either side like a coin. It is about the two networks at hand, the first seed's of each page."
    )
    for found in pairs:
        if found.asked != (found.n, found.n):
            made.words(
                f"{found.a.short} and {found.b.short} split differently: of {found.asked[0]:,} and {found.asked[1]:,} "
                f"validation images they have {found.n:,} in common, which neither trained on. Only these are compared."
            )
    for found in pairs:
        columns = {SPLITS[split]: _tested(told) for split, told in _splits(found, faces) if told.n}
        if columns:
            lines = next(iter(columns.values()))
            rows = [(line, *(told[line] for told in columns.values())) for line in lines]
            made.table(Table.of(rows, ["images", *columns]))


def _tested(found: Pair) -> dict[str, str]:
    """McNemar's test in words and numbers, a line each."""
    (only_a, only_b, p), a, b = found.mcnemar, found.a.short, found.b.short
    both = int((found.right(0) & found.right(1)).sum())
    return {
        "n": f"{found.n:,}",
        f"{a} is right": percent(float(found.right(0).mean())),
        f"{b} is right": percent(float(found.right(1).mean())),
        "both are right": f"{both:,}",
        f"only {a} is right": f"{only_a:,}",
        f"only {b} is right": f"{only_b:,}",
        "neither is right": f"{found.n - both - only_a - only_b:,}",
        "difference [95 % over images]": interval(found.difference, change=True),
        "McNemar's exact p": _p(p),
    }


def _splits(found: Pair, faces: Faces) -> Iterable[tuple[str, Pair]]:
    yield "validation", found
    if all(side.params.score_test and side.runs[0].scored for side in (found.a, found.b)):
        split, k = data.make_split(faces), len(faces.classes)  # leak-free is the same set for every split
        yield "test_official", pair(found.a, found.b, "test", k)
        yield "test_leak_free", pair(found.a, found.b, "test", k, faces.ids[split.test[split.leak_free]])


def _by_class(made: Document, found: Pair, classes: Sequence[str]) -> None:
    made.words(f"## {found.a.short} and {found.b.short}, class by class")
    names, k = (found.a.short, found.b.short), len(classes)
    source = "predictions.parquet of both first runs: validation, label and the probabilities"
    rows = []
    for code, name in enumerate(classes):
        of = found.labels == code
        for place, arm in enumerate(names):
            right, n = int(found.right(place)[of].sum()), int(of.sum())
            rows.append((name, arm, right / n if n else np.nan, *evaluation.wilson(right, n), n))
    table = pd.DataFrame(rows, columns=["class", "arm", "value", "low", "high", "n"])
    made.figure(plots.recall_intervals(table), "Recall of each class with its interval over images.", source)
    first, second = (evaluation.confusion(found.labels, answer, k) for answer in found.predicted)
    axes = plots.confusion_difference(first, second, classes, names)
    made.figure(axes, f"Confusion matrix of {names[1]} minus that of {names[0]}, on the same images.", source)


def _images(made: Document, found: Pair, faces: Faces) -> None:
    heading = f"## Images on which {found.a.short} and {found.b.short} disagree"
    made.words(f"{heading}\n\nThe surest answers on both sides come first.")
    index = pd.Index(faces.ids)
    for place, side in enumerate((found.a, found.b)):
        rows = found.disagreements(place)
        if not len(rows):
            made.words(f"There is no validation image that only {side.short} has right.")
            continue
        table = found.table(faces.classes, rows)
        line = f"{len(rows)} of {found.mcnemar[place]:,} images that only {side.short} has right"
        other = (found.b, found.a)[place].short
        wrong = zip(table["label"], table[other], table[f"{other} confidence"], strict=True)
        names = [f"{label}\n{answer}\n{percent(sure, 0)}" for label, answer, sure in wrong]
        axes = plots.images_grid(faces.images[index.get_indexer(table["image_id"])], names, finding=line)
        table = table.rename(columns={"label": "true"}).set_index("image_id")
        lead = "Of each its label, then the other page's answer and how sure that was."
        source = "predictions.parquet of both first runs: image_id, split, label and the probabilities"
        made.figure(axes, lead, source, stand_in(table, faces))
        made.table(Table(table), "Their ids, labels and answers", beside_faces=True)


# ------------------------------------------------------------------------------------------------------------- the page


def make(sides: Sequence[Side], settings: Settings, inputs: dict[str, Any]) -> None:
    """Write the comparison's page, its notebook and the answers that differ; page.json, last, says that it is whole."""
    matplotlib.use("agg")  # a desktop's backend would open windows
    faces = data.open_faces(settings.data, settings.store)
    written = report.clean(document(sides, faces, settings.sample).notebook(), settings)
    folder = settings.reports / report.comparison_name(side.name for side in sides)
    (folder / "page.json").unlink(missing_ok=True)
    files = ("notebook.ipynb", *_write_answers(sides, faces, folder), *report.figure_files(written))
    told = context(sides, settings, files, bool(inputs.get("own")))
    pages = {"pages": [side.name for side in sides], "inputs": inputs}
    report.put(written, told, report.render(written, told).encode(), folder, pages)


def context(sides: Sequence[Side], settings: Settings, files: tuple[str, ...], own: bool = False) -> report.PageContext:
    """What a comparison's page says beside its figures and tables."""
    return report.PageContext(
        name=report.comparison_name(side.name for side in sides),
        title=title(sides),
        dataset=settings.name,
        sample=settings.sample,
        own=own,
        asked=f"Do {listed([side.short for side in sides])} differ by more than chance, and on which images?",
        files=files,
        commands=(f'make compare PAGES="{" ".join(side.name for side in sides)}"{report.variables(settings)}',),
        provenance=report.provenance([run for side in sides for run in side.runs]),
    )


def _write_answers(sides: Sequence[Side], faces: Faces, folder: Path) -> list[str]:
    """The validation images that a pair answers differently, a CSV a pair."""
    names = []
    for other in sides[1:]:
        stem = re.sub(r"\W+", "_", other.short)
        name = f"answers_{stem}.csv" if len(sides) > 2 else "answers.csv"
        table = pair(sides[0], other, "validation", len(faces.classes)).table(faces.classes)
        artifacts.write_frame(folder / name, table)
        names.append(name)
    return names
