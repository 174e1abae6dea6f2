"""What 05_analysis shows: a claim's runs held against its rule, or all claims side by side."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from scipy import special

from fer_core import artifacts, claims, data, exploration, leaderboard, notebook, plots, schema
from fer_core.artifacts import Run, settings
from fer_core.data import Faces
from fer_core.notebook import Table, of_seeds, over_seeds, plain, sentence
from fer_core.schema import Params, counted, listed

SHOWN_APART = ("seed", "split_seed", "epochs")  # what an arm's row says in other words or another column
LATE_FROM = 7  # epochs: of fewer, the late loss's variability is the spread of less than four changes


def page(params: Params) -> Claim | Summary:
    """The claim that `params` state or, where they name no arms, the summary of all claims: the same methods.

    Parameters
    ----------
    params : the page's parameters, of `parameters`

    Returns
    -------
    Claim or Summary
    """
    return Claim(params) if params.arms else Summary()


class Claim:
    """One claim: its arms, its runs once `train` got them, and what they say by the rule."""

    def __init__(self, params: Params) -> None:
        claims.check_rule(params.rule, params.arms, params.metric)
        self.params, self.metric, s = params, params.metric, settings()
        self.wanted = schema.claim_runs(params, s.sample, s.set_values)
        self.runs: dict[str, list[Run]] = {}
        self.cut = 0

    def question(self) -> Markdown:
        """Claim, question and primary metric."""
        told = {"Claim": self.params.claim, "Question": self.params.question, "Metric": claims.words(self.metric)}
        return Markdown("\n\n".join(f"**{name}:** {text}" for name, text in told.items()))

    def arms(self) -> Table:
        """The runs compared: base page, what differs from it, epochs, seeds."""
        rows = []
        asked = {name: runs[0] for name, runs in schema.claim_runs(self.params, False).items()}
        varied = [k for k in schema.RUN_PARAMETERS if len({getattr(run, k) for run in asked.values()}) > 1]
        for name, arm in self.params.arms.items():
            run, own = self.wanted[name][0], arm.get("set") or {}
            lowered = [k for k in varied if k not in SHOWN_APART and getattr(run, k) != getattr(asked[name], k)]
            stated = {k: getattr(asked[name], k) for k in (*own, *lowered)}
            changes = [f"{k} {plain(getattr(run, k))}{_lowered(getattr(run, k), v)}" for k, v in stated.items()]
            changes += ["each seed its own split"] * self.params.split_by_seed
            rows.append((name, arm["page"], ", ".join(changes) or "–", run.epochs, plain(self.params.seeds)))
        return Table.of(rows, ["arm", "base page", "what differs", "epochs", "seeds"])

    def conditions_in_words(self) -> list[str]:
        """Each condition of the rule as a sentence."""
        return [claims.describe(condition, self.metric) for condition in self.params.rule]

    def rule(self) -> Markdown:
        """The verdict's rule, as it was written down before the runs."""
        conditions = "\n".join(f"1. {text}" for text in self.conditions_in_words())
        return Markdown(f"The claim is **supported** if all of this holds:\n\n{conditions}")

    def train(self) -> None:
        """Load, resume or train every run of every arm; what stays in the cell is the state of each."""
        log, states, n = notebook.Log(), Counter[str](), sum(map(len, self.wanted.values()))
        lines: list[str] = []
        self.__dict__.pop("judged", None)  # it was of the runs there were before
        for name, wanted in self.wanted.items():
            self.runs[name] = []
            for params in wanted:
                limited = dataclasses.replace(params, time_limit_minutes=self.params.time_limit_minutes)
                run = log.obtain(limited, f"run {len(lines) + 1} of {n}, {name}, seed {params.seed}: ")
                states[run.state] += 1
                lines.append(f"{name}, seed {params.seed}: {run.state}")
                if run.finished:
                    self.runs[name].append(notebook.scored(run) if self.shows_test else run)
        self.cut = states["cut"]
        log.show(f"{n} runs: " + ", ".join(f"{count} {state}" for state, count in states.items()), "\n".join(lines))

    @functools.cached_property
    def shows_test(self) -> bool:
        """Whether this page may score the test, or ranks whole pages that score these very runs themselves."""
        if self.params.score_test or self.metric != "validation_accuracy":
            return self.params.score_test
        s, whole = settings(), []
        for arm in self.params.arms.values():
            base = schema.resolve_page(schema.load_page(arm["page"]), s.sample, s.set_values)
            whole.append(base.score_test and not arm.get("set") and set(self.params.seeds) <= set(base.seeds))
        return all(whole)

    def curves(self) -> None:
        """Validation accuracy by epoch; where the metric is another column's, that one; training loss where the page
        says what to look for.
        """
        own = {"gap": "gap", "clean_gap": "gap", "late_loss_variability": "validation_loss"}.get(self.metric)
        histories = {name: [_history(run) for run in runs] for name, runs in self.runs.items()}
        for column in filter(None, [own, "validation_accuracy", "train_loss" * bool(self.params.look_for)]):
            levels = _guessing(notebook.open_faces()) if column == "train_loss" else {}
            axes = plots.arm_curves(histories, column, levels=levels)
            what = column.replace("_", " ").capitalize()
            source = "train_accuracy − validation_accuracy" if column == "gap" else column
            lead = f"{what} by epoch; a thin line a run, a thick one the mean of an arm."
            plots.show(axes, lead, f"history.csv of every run: epoch, {source}")

    def values(self) -> None:
        """Each run's value of the primary metric, and each arm's mean."""
        axes = plots.arm_values(claims.arm_table(self.runs, self.metric), self.metric)
        lead = "A dot is a run, a diamond the mean of an arm with its interval."
        plots.show(axes, lead, f"{claims.source(self.metric)}, of every run")

    @functools.cached_property
    def judged(self) -> claims.Verdict:
        """Effect and verdict, computed from the runs' artifacts."""
        return claims.judge(self.params, self.runs, settings().sample)

    def conditions(self) -> Table:
        """Each condition of the rule: effect, interval over seeds, verdict."""
        rows = [(c.rule, claims.told_effect(c), c.n, c.verdict) for c in self.judged.conditions]
        return Table.of(rows, ["condition", "effect [95 % over seeds]", "n", "verdict"])

    def verdict(self) -> Markdown:
        """The verdict, what was left out, and what to look for elsewhere."""
        cut = f"{self.cut} runs were cut by time_limit_minutes and are left out: run the page again to finish them"
        known = (self.judged.mixed, self.judged.note, cut * bool(self.cut), self._idle(), self._same(), self._apart())
        notes = [f" {note}." for note in known if note]
        told = {"What to keep in mind.": self.params.reading, "What to look for.": self.params.look_for}
        further = "".join(f"\n\n**{lead}** {text}" for lead, text in told.items() if text)
        return Markdown(f"**Verdict: {self.judged.verdict}.**{''.join(notes)}{further}")

    def _same(self) -> str:
        """Arms with runs that came out bit for bit alike although they were asked for differently."""
        told = []
        for arm, other in itertools.combinations(self.runs, 2):
            pairs = [(a, b) for a, b in self._by_seed(arm, other) if a.key != b.key]
            if seeds := [str(a.params.seed) for a, b in pairs if _alike(a, b)]:
                told.append(f"“{arm}” and “{other}” (seed{'s' * (len(seeds) > 1)} {', '.join(seeds)})")
        return f"The same trainings, bit for bit, since what differs never acted: {'; '.join(told)}" * bool(told)

    def _idle(self) -> str:
        """How often a schedule that follows the plateaus has never lowered the rate."""
        waiting = {arm: [run for run in runs if run.params.schedule == "plateau"] for arm, runs in self.runs.items()}
        idle = {arm: sum(run.history["learning_rate"].nunique() == 1 for run in runs) for arm, runs in waiting.items()}
        told = [f"in {n} of {len(waiting[arm])} runs of “{arm}”" for arm, n in idle.items() if n]
        return f"The learning rate never fell {listed(told)}" * bool(told)

    def _apart(self) -> str:
        """Which compared arms come from different types of processor, so that equal seeds are no pairs."""
        told = [
            f"“{arm}” against “{against}”"
            for arm, against in self._pairs()
            if any(
                a.provenance.get("processor") != b.provenance.get("processor") for a, b in self._by_seed(arm, against)
            )
        ]
        text = f"{listed(told)} compare{'s' * (len(told) == 1)} runs of different types of processor, where the same "
        text += "seed is another training, so that a difference may be as much chance as one between seeds"
        return text * bool(told)

    def _by_seed(self, arm: str, other: str) -> list[tuple[Run, Run]]:
        """The runs of two arms that have the same seed."""
        return [(a, b) for a in self.runs[arm] for b in self.runs[other] if a.params.seed == b.params.seed]

    def secondary(self) -> Table:
        """Further metrics of each arm, mean and interval over seeds, and of what the rule compares the differences, but
        not what no run has; all recalls where the claim is about one.
        """
        faces, about_recall = notebook.open_faces(), self.metric.startswith("recall_")
        if about_recall:
            recalls = {
                arm: {n: np.mean([claims.metric_of(run, f"recall_{n}") for run in runs]) for n in faces.classes}
                for arm, runs in self.runs.items()
            }
            axes = plots.class_recalls(pd.DataFrame(recalls))
            plots.show(axes, "Recall of each class by arm.", "metrics.json: validation, classes")
        if len({wanted[0].split for wanted in self.wanted.values()}) > 1:
            display(exploration.torn_table(faces))
        if self.metric == "leak_flattery":
            splits = {arm: data.split_of(faces, wanted[0]) for arm, wanted in self.wanted.items()}  # seeds share one
            display(exploration.leaked_table(faces, splits))
        every = [run for runs in self.runs.values() for run in runs]
        rare = [f"recall_{faces.classes[data.class_sizes(faces).argmin()]}"] * (not about_recall)
        metrics = ["validation_accuracy", "best_validation_accuracy", "macro_f1", *rare, "gap", "clean_gap"]
        shortest = min(wanted[0].epochs for wanted in self.wanted.values())
        if self.metric.startswith("improvement_after_"):
            metrics.insert(1, self.metric.replace("improvement_after", "validation_accuracy_at"))
        metrics += ["late_loss_variability"] * (shortest >= LATE_FROM or self.metric == "late_loss_variability")
        metrics += ["at_chance"] * any(run.state == "diverged" for run in every)
        metrics += ["test_official_accuracy", "test_leak_free_accuracy", "leak_flattery"] * self.shows_test
        metrics += ["test_copies_accuracy"] * (self.metric == "leak_flattery")
        metrics = [name for name in metrics if any(math.isfinite(claims.metric_of(run, name)) for run in every)]
        rows = [(name, *(over_seeds(runs, metric) for metric in metrics)) for name, runs in self.runs.items()]
        table = Table.of(rows, ["arm", *map(claims.words, metrics)])
        if len(rows) < len(metrics):  # a phone is narrow: the longer of the two runs downwards
            table = Table(table.T.rename_axis(index="mean over seeds", columns=None))
        if not (pairs := self._pairs()):
            return table
        display(table)
        rows = [(claims.words(name), *(self._difference(*pair, name) for pair in pairs)) for name in metrics]
        return Table.of(rows, ["difference", *(f"“{arm}” − “{against}”" for arm, against in pairs)])

    def _pairs(self) -> list[tuple[str, str]]:
        """The arms that the rule compares, each pair once."""
        return list(dict.fromkeys((c.arm, c.against) for c in self.judged.conditions if c.against))

    def _difference(self, arm: str, against: str, metric: str) -> str:
        """Of two arms, in words."""
        found, _ = claims.difference(self.runs[arm], self.runs[against], metric)
        return of_seeds(found, metric, change=True)

    def finding(self) -> Markdown:
        """The page in one sentence."""
        first = self.judged.conditions[0]
        effect = claims.told_effect(first)
        text = f"{self.params.claim}: {self.judged.verdict}; {claims.about(first)} "
        text += f"{'has' if effect == 'no value' else 'is'} {effect}, n = {counted(first.n, 'seed')}"
        return sentence(". ".join(filter(None, [text, claims.decided_by(self.judged), self._unasked()])))

    def _unasked(self) -> str:
        """Of a claim about dead runs: how many there are in the arms that the rule does not name."""
        named = {name for c in self.judged.conditions for name in (c.arm, c.against)}
        runs = {arm: runs for arm, runs in self.runs.items() if arm not in named and self.metric == "at_chance"}
        dead = {arm: sum(claims.metric_of(run, "at_chance") for run in found) for arm, found in runs.items()}
        told = [f"{dead[arm]:.0f} of {len(found)} in “{arm}”" for arm, found in runs.items()]
        return f"In arms that the rule does not name, at chance level: {listed(told)}" * bool(told)


def _lowered(value: Any, stated: Any) -> str:
    """What the page states, where the sample's ceilings (or SET) made it something else."""
    return "" if value == stated else f" (stated: {plain(stated)})"


def _alike(a: Run, b: Run) -> bool:
    return a.history.equals(b.history) and a.metrics["validation"] == b.metrics["validation"]


def _history(run: Run) -> pd.DataFrame:
    return run.history.assign(gap=run.history["train_accuracy"] - run.history["validation_accuracy"])


def _guessing(faces: Faces) -> dict[str, float]:
    """The cross-entropy of answers that do not depend on the image, in nats."""
    labels = faces.labels[faces.usage != data.PRIVATE]
    known = float(special.entr(np.bincount(labels) / len(labels)).sum())
    return {"all classes alike": math.log(len(faces.classes)), "no more than each class's share": known}


class Summary:
    """All claims side by side, from runs that are finished; it trains none."""

    def __init__(self) -> None:
        s, names = settings(), [name for name in schema.page_names() if name.startswith("05_analysis/")]
        pages = {name: schema.resolve_page(schema.load_page(name), s.sample, s.set_values) for name in names}
        here = {name: params for name, params in pages.items() if schema.applies(params, notebook.open_faces().classes)}
        self.elsewhere = [params.claim for name, params in pages.items() if name not in here]
        self.claims = {name: Claim(params) for name, params in here.items() if params.arms}
        for claim in self.claims.values():
            claim.runs = {arm: [r for r in map(notebook.finished, wanted) if r] for arm, wanted in claim.wanted.items()}

    @functools.cached_property
    def judged(self) -> dict[str, claims.Verdict | None]:
        """Each claim's verdict by its page; None where it has not all its runs."""

        def whole(claim: Claim) -> bool:
            scored = claim.params.score_test and notebook.open_faces().has_test_labels
            n = sum(run.scored or not scored for runs in claim.runs.values() for run in runs)
            return n == sum(map(len, claim.wanted.values()))

        return {name: claim.judged if whole(claim) else None for name, claim in self.claims.items()}

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """claim, page, effect, low, high, n, rule, verdict: claims.csv, and a row for those not yet run."""
        rows: list[dict[str, Any]] = []
        for name, found in self.judged.items():
            row = {"claim": self.claims[name].params.claim, "page": name, "n": 0, "verdict": "not yet run"}
            rows.append(row | (dataclasses.asdict(found) if found else {}))
        return pd.DataFrame(rows, columns=list(artifacts.CLAIM_COLUMNS))

    def _counts(self) -> str:
        counts = self.table["verdict"].value_counts()
        told = ", ".join(f"{n} {'is' if n == 1 else 'are'} {verdict}" for verdict, n in counts.items())
        return f"Of {len(self.claims)} claims {told}"

    def question(self) -> Markdown:
        """What this page is."""
        return Markdown(f"**Question:** of the {len(self.claims)} claims of this study, which does the data support?")

    def arms(self) -> Table:
        """Every claim with its metric, arms and seeds."""
        rows = [
            (c.params.claim, claims.words(c.metric), ", ".join(c.wanted), len(c.params.seeds))
            for c in self.claims.values()
        ]
        return Table.of(rows, ["claim", "metric", "arms", "seeds"])

    def rule(self) -> Table:
        """The rules, as they were written down before the runs."""
        rows = [(c.params.claim, "; and ".join(c.conditions_in_words())) for c in self.claims.values()]
        return Table.of(rows, ["claim", "supported if"])

    def train(self) -> Markdown:
        """Nothing is trained here: which claims have all their runs."""
        missing = self.table.loc[self.table["verdict"] == "not yet run", "page"]
        n = len(self.claims)
        text = f"This page trains nothing: {n - len(missing)} of {n} claims have all their runs."
        text += f" Not yet run: {', '.join(missing)}." if len(missing) else ""
        if self.elsewhere:
            text += f" About FER2013 itself, so that they do not apply here: {'; '.join(self.elsewhere)}."
        return Markdown(text)

    def curves(self) -> None:
        """Every claim's effect with its interval."""
        found = list(self.judged.values())
        table = self.table.assign(
            claim=self.table["page"].map(leaderboard.shown_name),
            told=[claims.told_effect(v.conditions[0]) if v else "no value" for v in found],
            threshold=[v.conditions[0].threshold if v else math.nan for v in found],
            by_another=[bool(v and not v.mixed and claims.decided_by(v)) for v in found],
        )
        axes = plots.claim_effects(table)
        plots.show(axes, "The effect of each claim with its interval.", "claims.csv: page, effect, low, high")

    def values(self) -> Table:
        """How many claims came to which verdict."""
        return Table.of(self.table["verdict"].value_counts().items(), ["verdict", "claims"])

    def conditions(self) -> Table:
        """Effect, interval and verdict of each claim, by its first condition."""
        rows = []
        for row, found in zip(self.table.itertuples(), self.judged.values(), strict=True):
            effect = claims.told_effect(found.conditions[0]) if found else "–"
            by_another = claims.decided_by(found) if found else ""
            rows.append((row.claim, row.page, effect, row.n, row.verdict, by_another or "–"))
        columns = ["claim", "page", "effect [95 % over seeds]", "n", "verdict", "by another condition"]
        return Table.of(rows, columns)

    def verdict(self) -> Markdown:
        """What to make of the table."""
        return Markdown(f"**{self._counts()}.** An effect short of its threshold proves nothing.")

    def secondary(self) -> Markdown:
        """Where the further metrics are."""
        return Markdown("Further metrics stand on the claims' own pages.")

    def finding(self) -> Markdown:
        """The page in one sentence."""
        return sentence(self._counts())
