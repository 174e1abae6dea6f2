"""What 07_beyond shows beyond a training's page: each ingredient's worth, and the accuracies that the field states."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from fer_core import claims, data, evaluation, leaderboard, notebook, plots, schema
from fer_core.artifacts import Run, settings
from fer_core.notebook import Table, interval
from fer_core.schema import Params, percent


class Ablation:
    """What the recipe is worth without each of its ingredients, on validation images; a short run each, of one seed.

    Parameters
    ----------
    params : with `ablation` {ingredient: what the recipe is without it} and `ablation_epochs`
    """

    def __init__(self, params: Params) -> None:
        s, log = settings(), notebook.Log()
        self.params, self.runs, lines = params, dict[str, Run](), []
        for name, (wanted,) in schema.ablation_runs(params, s.sample, s.set_values).items():
            limited = dataclasses.replace(wanted, time_limit_minutes=params.time_limit_minutes)
            self.runs[name] = log.obtain(limited, f"{name}: ")
            lines.append(f"{name}: {self.runs[name].state}, {len(self.runs[name].history)} epochs")
        log.show(f"{len(lines)} short runs, seed {params.seeds[0]}", "\n".join(lines))

    @functools.cached_property
    def worth(self) -> pd.DataFrame:
        """A row a run: name, n, value, low, high (validation accuracy, Wilson); what the ingredient adds with its
        interval over the same images (worth, worth_low, worth_high); p of McNemar's test. The whole recipe comes first.
        """
        if not self.runs:
            return pd.DataFrame(columns=["name", "n", "value", "low", "high", "worth", "worth_low", "worth_high", "p"])
        of = [[run.key, run.state] for run in self.runs.values()]
        return pd.DataFrame(self.runs[schema.WHOLE].derived("ablation", of, self._worth))

    def _worth(self) -> list[dict[str, Any]]:
        found, rows = {name: notebook.answers(schema.DEFAULTS, run) for name, run in self.runs.items()}, []
        whole = found[schema.WHOLE]
        for name, own in found.items():
            m = own.metrics
            row = {"name": name, "n": m["n"], "value": m["accuracy"]}
            row |= {"low": m["accuracy_low"], "high": m["accuracy_high"]}
            if own is not whole:
                without, with_it, p = evaluation.mcnemar(own.labels, own.predicted, whole.predicted)
                gained = evaluation.paired_difference(without, with_it, m["n"])
                row |= {"worth": gained.value, "worth_low": gained.low, "worth_high": gained.high, "p": p}
            rows.append(row)
        return rows

    def table(self) -> Table:
        """`worth` in words: accuracy, what the ingredient adds, and how surely."""
        rows = []
        for row in self.worth.to_dict("records"):
            told = ("–", "–")  # of the whole recipe
            if row["name"] != schema.WHOLE:
                told = interval([row["worth"], row["worth_low"], row["worth_high"]], change=True), f"{row['p']:.2g}"
            rows.append((row["name"], percent(row["value"]), *told))
        return Table.of(rows, ["", "validation accuracy", "the ingredient adds", "p (McNemar)"])

    def finding(self) -> str:
        """In a sentence: which ingredient adds most, and how many add or cost more than chance on these images."""
        known = self.worth.iloc[1:]
        if known.empty:
            return "This page switches no ingredient off"
        best = known.sort_values("worth", kind="stable").iloc[-1]
        more, less = (known["worth_low"] > 0).sum(), (known["worth_high"] < 0).sum()
        text = f"After {len(self.runs[schema.WHOLE].history)} epochs {best['name'].removeprefix('without ')} "
        text += f"adds most ({interval([best['worth'], None, None], change=True)}); {more} of {len(known)} "
        text += f"ingredients add more than chance on these images, {less} cost more"
        return text


# -- the field


def the_field(params: Params, runs: Sequence[Run]) -> pd.DataFrame:
    """Accuracies stated for PrivateTest, each with the interval that its number of images allows, and this page's.

    Parameters
    ----------
    params, runs : the page's parameters, and its runs of all seeds; ours are the first one's accuracy and that of
        all together, on the images that the page reports

    Returns
    -------
    DataFrame : name, value, low, high (fractions, Wilson 95 %), trained_on, chosen (the checkpoint: how), ours
    """
    rows, n = [], leaderboard.ORIGINAL_IMAGES
    for mark in leaderboard.LITERATURE:
        share = np.nan if mark.percent is None else mark.percent / 100
        low, high = (np.nan, np.nan) if mark.percent is None else evaluation.wilson(round(share * n), n)
        rows.append((mark.name, share, low, high, mark.trained_on, mark.chosen, False))
    found = notebook.answers(params, runs[0])
    chosen = f"by {plots.KEPT_BY[params.select]} epoch, before the test was seen" if found.split == "test" else "–"
    real = "FER2013" if data.is_fer2013(notebook.open_faces()) else settings().name
    of = "drawn faces" if settings().sample else real
    ours = [(f"this page, seed {runs[0].params.seed}", found.metrics)]
    if len(runs) > 1:
        ours.append((f"this page, {len(runs)} seeds together", notebook.together(params, runs)[0][1]))
    for name, m in ours:
        scores = m["accuracy"], m["accuracy_low"], m["accuracy_high"]
        rows.append((f"{name}, {found.split} images", *scores, of, chosen, True))
    columns = ["name", "value", "low", "high", "trained_on", "chosen", "ours"]
    return pd.DataFrame(rows, columns=columns).sort_values("value", kind="stable", ignore_index=True)


def field_table(field: pd.DataFrame) -> Table:
    """`the_field` in words.

    Parameters
    ----------
    field : of `the_field`

    Returns
    -------
    Table
    """
    rows = []
    for row in field.to_dict("records"):
        people = row["trained_on"] == "–"  # an estimate, with a spread of its own, on no such number of images
        accuracy = [row["value"], *((None, None) if people else (row["low"], row["high"]))]
        rows.append((row["name"], interval(accuracy), row["trained_on"], row["chosen"]))
    return Table.of(rows, ["on PrivateTest", "accuracy [95 % of sampling]", "trained on", "checkpoint chosen"])


def field_finding(field: pd.DataFrame) -> str:
    """How many steps from one stated accuracy to the next are smaller than what sampling the test images makes.

    Parameters
    ----------
    field : of `the_field`

    Returns
    -------
    str
    """
    stated = field[~field["ours"] & field["value"].notna()]
    wide = float(((stated["high"] - stated["low"]) / 2).median()) * 100
    steps = stated["value"].diff().dropna() * 100
    within = int((steps < wide).sum())
    return f"{within} of {len(steps)} steps between stated accuracies are smaller than ± {wide:.1f} points of sampling"


def copies_flatter(params: Params, run: Run) -> Markdown:
    """What the leaked copies add to a test accuracy, measured on this run, in a sentence.

    Parameters
    ----------
    params, run : the page's parameters, and its run in detail

    Returns
    -------
    Markdown
    """
    if not notebook.may_show_test(params, run):
        return Markdown("What the leaked copies add was not measured: this page does not look at the test set.")
    official, free = run.metrics["test_official"], run.metrics["test_leak_free"]
    n = official["n"] - free["n"]
    if not n:
        return Markdown("No test image here has a copy among the images before it.")
    share = claims.metric_of(run, "test_copies_accuracy")
    copies = interval([share, *evaluation.wilson(round(share * n), n)])
    added = interval([official["accuracy"] - free["accuracy"], None, None], change=True)
    rest = f"on the other {free['n']:,} on {notebook.with_interval(free)}"
    return notebook.sentence(
        f"On the {n:,} test images that have a copy in Training or PublicTest this run is right on {copies}, {rest}: "
        f"the copies move its official accuracy by {added}"
    )
