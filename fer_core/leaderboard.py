"""The index of a study: its abstract, its leaderboard, and accuracies beside the original's and the literature's.

Everything is computed from results.csv, claims.csv and the runs' histories; what others measured is quoted with how it
was made. Rows come as they stand in the CSV files or as `build` makes them: numbers may be text, missing ones empty.
Cheap to import: no numpy, no pandas, no torch.
"""

from __future__ import annotations

import csv
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fer_core import artifacts, schema
from fer_core.schema import Params, counted, listed, percent

CLAIMS_NOTEBOOK, FINAL_NOTEBOOK, BEYOND = "05_analysis", "06_final", "07_beyond/default"
DEPTH = f"{CLAIMS_NOTEBOOK}/depth"
NETWORKS = ("01_basic_cnn/default", "02_batch_norm/default", "03_dropout/default", "04_complex_cnn/default")
# The original's test accuracies (STUDY, sections 2 and 4), on the images of PrivateTest.
ORIGINAL = {"04_complex_cnn/default": 0.61, "06_final/rare_transforms": 0.627473}
ORIGINAL_IMAGES = 3589
RUN_PARAMETERS = [name for name in schema.RUN_PARAMETERS if name != "seed"]
SETTLED = "by the network"
DRAWN = "What follows shows only that all of it runs: the faces are drawn, and no figure says anything about FER2013."
TEST = ("test_official", "test_leak_free")
# What to read of a study in half an hour; the final model's page comes before the last.
SHORT_WAY = ("00_exploration/default", "04_complex_cnn/default", "05_analysis/summary", BEYOND)

Row = Mapping[str, Any]


class Mark(NamedTuple):
    """An accuracy that others state for PrivateTest, in percent; `sign` is † where PrivateTest chose the checkpoint,
    + where more than FER2013 trained, ? where the figure is disputed or cannot be checked.
    """

    name: str
    percent: float | None
    trained_on: str
    chosen: str
    sign: str = ""


# ------------------------------------------------------------------------------------------------------------- numbers


def number(told: Any) -> float | None:
    """A number, or its text; None where it is missing, empty or not finite."""
    try:
        found = float(told)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def value(row: Row, name: str) -> float | None:
    """A number of a row."""
    return number(row.get(name))


LITERATURE = tuple(
    Mark(row["name"], value(row, "percent"), row["trained_on"], row["chosen"], row["sign"])
    for row in csv.DictReader((schema.PACKAGE / "template" / "literature.csv").read_text(encoding="utf-8").splitlines())
)


def _scores(row: Row, part: str) -> list[float | None]:
    """A test accuracy and the two ends of its interval."""
    return [value(row, f"{part}_{name}") for name in ("accuracy", "low", "high")]


def _interval(row: Row, part: str) -> str:
    """A test accuracy as "61.2 % [59.6, 62.8]"; empty where it was not scored."""
    accuracy, low, high = _scores(row, part)
    if accuracy is None:
        return ""
    return percent(accuracy) + (f" [{low * 100:.1f}, {high * 100:.1f}]" if low is not None and high is not None else "")


# ------------------------------------------------------------------------------------------------------------ headlines


@dataclass(frozen=True)
class Headline:
    """A training page's results: its first seed's row, never its best one's, and all of its rows."""

    page: str
    row: Row
    rows: tuple[Row, ...]

    @property
    def validation(self) -> float | None:
        """Mean validation accuracy over the seeds."""
        known = [v for row in self.rows if (v := value(row, "validation_accuracy")) is not None]
        return sum(known) / len(known) if known else None

    @property
    def scored(self) -> bool:
        return value(self.row, "test_official_accuracy") is not None


def headlines(results: Iterable[Row]) -> list[Headline]:
    """Every training page of results.csv, in its order; the claims' own runs are no models that were put up."""
    pages: dict[str, list[Row]] = {}
    for row in results:
        if not row["page"].startswith(f"{CLAIMS_NOTEBOOK}/"):
            pages.setdefault(row["page"], []).append(row)
    return [Headline(page, rows[0], tuple(rows)) for page, rows in pages.items()]


def best_page(results: Iterable[Row], notebook: str = "") -> str | None:
    """The page, of a notebook or of all, that validates best (mean over its seeds); None before any is trained."""
    own = (line for line in headlines(results) if line.page.startswith(notebook))
    known = {line.page: line.validation for line in own if line.validation is not None}
    return max(known, key=known.__getitem__, default=None)


def final_page(results: Iterable[Row]) -> str | None:
    """The final model; None before any is trained."""
    return best_page(results, f"{FINAL_NOTEBOOK}/")


# ------------------------------------------------------------------------------------------------------------- abstract


def abstract(
    results: Sequence[Row],
    claims: Sequence[Row],
    fer2013: bool = True,
    claims_planned: int | None = None,
    sample: bool = False,
) -> str:
    """What was asked and what came out, in Markdown, half a page: every number is from results.csv and claims.csv.

    Parameters
    ----------
    results, claims : rows of the two files
    fer2013 : whether the original's and the literature's figures may stand beside them: not on drawn or other images
    claims_planned : how many claims there are to test; unset: as many as have a page's YAML
    sample : whether the images are drawn, so that no accuracy may be taken for a result
    """
    lines = headlines(results)
    if not lines:
        return "No training has finished yet: there is nothing to report."
    found = findings(results, claims, fer2013, claims_planned)
    return "\n\n".join([_asked(results, lines, claims), *([DRAWN] * sample), *found])


def findings(
    results: Sequence[Row], claims: Sequence[Row], fer2013: bool = True, claims_planned: int | None = None
) -> list[str]:
    """What the study found in at most four sentences: networks, test accuracies, copies, claims. As for `abstract`."""
    lines = headlines(results)
    planned = sum(map(is_claim, schema.page_names())) if claims_planned is None else claims_planned
    found = [
        _networks(lines, claims),
        _models(results, lines, fer2013),
        _copies(lines, fer2013),
        _verdicts(claims, planned),
    ]
    return [sentence for sentence in found if sentence]


def _asked(results: Sequence[Row], lines: Sequence[Headline], claims: Sequence[Row]) -> str:
    keyed = [(row.get("training_key", place), row) for place, row in enumerate(results)]  # two pages may share a run
    told = {line.page for line in lines} | {row["page"] for row in claims}
    runs = {key: row for key, row in keyed if row["page"] in told}
    sizes = sorted({size for line in lines if (size := value(line.row, "parameters"))})
    span = " to ".join(f"{size:,.0f}" for size in dict.fromkeys(sizes[:1] + sizes[-1:]))
    text = "**Asked:** which convolutional network, trained how, tells facial expressions apart? A first-hand account "
    text += f"of such a study is repeated step by step, in {counted(len(runs), 'training')}: "
    text += f"{counted(len(lines), 'page')} of models ({span} parameters)"
    text += f" and {counted(len(claims), 'claim')} put to the test." if claims else "."
    diverged = sum(row.get("status") == "diverged" for row in runs.values())
    if diverged:
        text += f" {counted(diverged, 'training')} diverged or stayed at chance level; they are counted as data, "
        text += "not left out."
    if further := len(dict(keyed)) - len(runs):
        text += f" Not counted: {counted(further, 'training')} of claims under way."
    return text


def _networks(lines: Sequence[Headline], claims: Sequence[Row]) -> str:
    known = [(line.validation, line) for line in lines if line.page in NETWORKS and line.validation is not None]
    if len(known) < 2:
        return ""
    known.sort(key=lambda found: -found[0])
    (best, first), rest = known[0], known[1:]
    others = listed([f"`{line.page}` ({percent(mean)})" for mean, line in rest])
    which = f"the {len(known)} networks built after the original's"
    if len(known) < len(NETWORKS):
        which = f"the {len(NETWORKS)} networks built after the original's, {len(known)} are trained; of these"
    text = f"**Found:** of {which} `{first.page}` is right on the most validation images, "
    seeds = f" (mean over {len(first.rows)} seeds)" if len(first.rows) > 1 else ""
    text += f"{percent(best)} of them{seeds}; then {others}"
    judged = [row["verdict"] for row in claims if row["page"] == DEPTH and first.page == NETWORKS[-1]]
    return text + (f"; the claim that it is the best is {judged[0]} (`{DEPTH}`)." if judged else ".")


def _models(results: Sequence[Row], lines: Sequence[Headline], fer2013: bool) -> str:
    """The pages with a test figure to remember: what the original's figure is beside, the final model, and beyond."""
    final, by_page = final_page(results), {line.page: line for line in lines if line.scored}
    what = {"04_complex_cnn/default": "", final or "": _chosen(lines), BEYOND: ""}
    told = []
    for page in (name for name in what if name in by_page):
        row, own = by_page[page].row, ORIGINAL.get(page) if fer2013 else None
        figure = f"{what[page]}`{page}` on {_interval(row, 'test_official')}"
        free = _interval(row, "test_leak_free")
        figure += f" and {free}" * bool(free)
        told.append(figure + (f" (the original: {_plain(own)})" if own else ""))
    if not told:
        return ""
    text = "On the test set (all official images, then the leak-free ones, each with its 95 % interval over images) "
    text += f"these first seeds are right: {'; '.join(told)}"
    kept = fer2013 and bool(final) and final not in ORIGINAL
    if kept:
        text += f"; the figure that the original kept in the end was {_plain(ORIGINAL['06_final/rare_transforms'])}"
    if kept or (fer2013 and any(page in ORIGINAL for page in what if page in by_page)):
        text += f" (at {ORIGINAL_IMAGES:,} images the original's figures are known to ± {spread() * 100:.1f} points)"
    if fer2013 and BEYOND in by_page:
        single = max((m for m in LITERATURE if m.trained_on == "FER2013" and "8 nets" not in m.name and m.percent),
                     key=lambda m: m.percent or 0)  # fmt: skip
        text += f"; the highest figure known for one network trained on FER2013 alone is {single.percent:.2f}\u00a0% "
        text += f"({single.name}{'; PrivateTest chose its checkpoint' if '†' in single.sign else ''})"
    return f"{text}."


def _chosen(lines: Sequence[Headline]) -> str:
    """What the final model was chosen from."""
    planned = sum(name.startswith(f"{FINAL_NOTEBOOK}/") for name in schema.page_names())
    trained = sum(line.page.startswith(f"{FINAL_NOTEBOOK}/") for line in lines)
    if trained >= planned:
        return f"the final model, of {planned} recipes the one that validates best, "
    return f"the final model so far ({trained} of {planned} recipes {'is' if trained == 1 else 'are'} trained), "


def _plain(share: float) -> str:
    return f"{share * 100:.4g}\u00a0%"


def _copies(lines: Sequence[Headline], fer2013: bool) -> str:
    pairs = [[value(line.row, f"{part}_accuracy") for part in TEST] for line in lines]
    gained = [official - free for official, free in pairs if official is not None and free is not None]
    if not any(gained):
        return ""
    mean = sum(gained) / len(gained) * 100
    text = "Counting the test images that have an exact copy in Training or PublicTest, accuracy is "
    text += f"{abs(mean):.1f} points {'higher' if mean >= 0 else 'lower'} than without them"
    text += f", on average over {len(gained)} pages of models" * (len(gained) > 1)
    asked = "; how much of that is because they were seen, `05_analysis/leaked_copies` asks" * fer2013
    return f"{text}{asked}."


def is_claim(page: str) -> bool:
    """Whether a page puts a claim to the test: all of its notebook's do but the summary."""
    return page.startswith(f"{CLAIMS_NOTEBOOK}/") and not page.endswith("/summary")


def shown_name(page: str) -> str:
    """A page's name as running text shows it: a claim's in words, any other as code."""
    return page.partition("/")[2].replace("_", " ") if is_claim(page) else f"`{page}`"


def _verdicts(claims: Sequence[Row], planned: int) -> str:
    """How many claims are decided and how."""
    by_verdict: dict[str, list[str]] = {}
    for row in claims:
        by_verdict.setdefault(row["verdict"], []).append(f"`{row['page']}`")
    if not by_verdict:
        return ""
    done, one = len(claims), len(claims) == 1
    which = f"all {done}" if done >= planned and not one else f"{done} of {max(done, planned)}"
    whole = "has all its runs" if one else "have all their runs"
    text = f"**Claims:** {which} {whole}, and rules that were written down before"
    if all(verdict.startswith("not evaluated") for verdict in by_verdict):
        return f"{text}; {'its verdict is' if one else 'their verdicts are'} {listed(list(by_verdict))}."
    order = sorted(by_verdict, key=lambda v: ("supported", "not supported", "inconclusive", v).index(v))
    told = [f"{f'{len(by_verdict[v])} ' * (not one)}{v} ({', '.join(by_verdict[v])})" for v in order]
    return f"{text}: {'; '.join(told)}."


# ---------------------------------------------------------------------------------------------------------- leaderboard


@dataclass(frozen=True)
class Contender:
    """What the leaderboard knows of a training page beside results.csv.

    Attributes
    ----------
    params : its resolved parameters
    histories : validation accuracy by epoch of each seed's run, the first seed's first
    states : how many of its runs are done, diverged, failed, cut or missing
    """

    page: str
    params: Params
    histories: tuple[tuple[float | None, ...], ...] = ()
    states: Mapping[str, int] = field(default_factory=dict)


def differing(pages: Sequence[Params]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The parameters of training in which pages differ, with each one's value, and those they all share."""
    values = {name: [shown(params, name) for params in pages] for name in RUN_PARAMETERS}
    differ = {name: found for name, found in values.items() if len(set(found)) > 1}
    return differ, {name: found[0] for name, found in values.items() if len(set(found)) == 1}


def shown(params: Params, name: str) -> str:
    """A parameter's value as a table shows it."""
    if name in schema.settled(params.network):
        return SETTLED
    parameter = getattr(params, name)
    if isinstance(parameter, bool):
        return "yes" if parameter else "no"
    return "none" if parameter is None else f"{parameter:g}" if isinstance(parameter, float) else str(parameter)


def board(results: Sequence[Row], contenders: Sequence[Contender], entries: Sequence[Row]) -> dict[str, Any]:
    """What the leaderboard's table shows: best validation accuracy first, pages without a run last.

    Returns
    -------
    dict of `columns` (parameters that differ), `shared` (one sentence of those that do not but are no default), `views`
    (of an image, where a page's accuracies average several), `apart` (pages whose images are divided in another way),
    `watched` (pages whose runs wrote down each epoch's test accuracy) and `rows`, each {page, href, state, troubles,
    seeds, first, mean, curve, values}.
    """
    lines, known = {line.page: line for line in headlines(results)}, {entry["name"]: entry for entry in entries}
    columns, shared = differing([contender.params for contender in contenders])
    shares = [v for c in contenders for history in c.histories for v in history if v is not None]
    span = (min(shares), max(shares)) if shares else (0.0, 1.0)
    rows = [_board_row(c, lines.get(c.page), known.get(c.page, {}), columns, span) for c in contenders]
    stated = {name: v for name, v in shared.items() if v != shown(schema.DEFAULTS, name)}
    trained = {c.page: c.params for c in contenders if c.page in lines}
    return {
        "columns": list(columns),
        "shared": ", ".join(f"{name} {v}" for name, v in stated.items()),
        "views": {page: params.test_views for page, params in trained.items() if params.test_views > 1},
        "apart": [page for page, params in trained.items() if params.split != schema.DEFAULTS.split],
        "watched": [page for page, params in trained.items() if params.score_test and params.test_by_epoch],
        "span": span,
        "rows": sorted(rows, key=lambda row: (row["mean"] is None, -(row["mean"] or 0))),
    }


def _board_row(
    contender: Contender, line: Headline | None, entry: Row, columns: Iterable[str], span: tuple[float, float]
) -> dict[str, Any]:
    states, runs = contender.states, sum(contender.states.values())
    values = [(name, shown(contender.params, name)) for name in columns]
    return {
        "page": contender.page,
        "href": entry.get("href"),
        "state": entry.get("state", "done"),
        "troubles": [
            (f"{count} of {runs} runs {state}" if runs > 1 else state, state)
            for state, count in states.items()
            if count and state != "done"
        ],
        "seeds": len(line.rows) if line else 0,
        "first": {name: line.row.get(name) if line else None for name in artifacts.RESULT_COLUMNS},
        "mean": line.validation if line else None,
        "curve": sparkline(contender.histories, span),
        "values": [(v, v in (shown(schema.DEFAULTS, name), SETTLED)) for name, v in values],
    }


def sparkline(histories: Sequence[Sequence[float | None]], span: tuple[float, float] = (0.0, 1.0)) -> str:
    """Validation accuracy by epoch as a small inline SVG: the first seed's line over the others'; empty without any.

    `span` is the accuracy at the bottom and at the top: the same for all rows of a table, so that they can be compared.
    """
    width, height, edge = 112, 28, 2
    low, high = span
    longest = max((len(history) for history in histories), default=0)
    known = [v for v in (histories[0] if histories else ()) if v is not None]
    if not known:
        return ""

    def at(epoch: int, share: float) -> str:
        x = edge + (width - 2 * edge) * (epoch / (longest - 1) if longest > 1 else 0.5)
        y = height - edge - (height - 2 * edge) * ((share - low) / (high - low) if high > low else 0.5)
        return f"{x:.1f},{y:.1f}"

    def drawn(history: Sequence[float | None], name: str) -> str:
        points = [at(epoch, share) for epoch, share in enumerate(history) if share is not None]
        line = f'<polyline class="{name}" points="{" ".join(points)}"/>' if len(points) > 1 else ""
        x, y = points[-1].split(",") if points else ("", "")
        return line + (f'<circle class="{name}" cx="{x}" cy="{y}" r="1.8"/>' if points and name == "first" else "")

    body = "".join(drawn(history, "other") for history in histories[1:]) + drawn(histories[0], "first")
    told = f"Validation accuracy from {percent(known[0])} to {percent(known[-1])} in {counted(len(known), 'epoch')}"
    return (
        f'<svg class="spark" role="img" aria-label="{told}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )


# ----------------------------------------------------------------------------------------------- accuracies on one axis


def accuracy_axis(lines: Sequence[Headline], marks: Sequence[Mark] = ()) -> str:
    """Official and leak-free test accuracy with their intervals, a row a page, over `marks` as lines; inline SVG.

    Positions along the axis are percentages of the width and letters have their own size, so that a phone shows both
    whole. Marks go upwards from their names, the lowest first: so no line crosses a name.
    """
    lines = [line for line in lines if line.scored]
    marks = sorted((mark for mark in marks if mark.percent is not None), key=lambda mark: mark.percent or 0)
    if not lines:
        return ""
    numbers = [v * 100 for line in lines for part in TEST for v in _scores(line.row, part) if v is not None]
    numbers += [mark.percent for mark in marks if mark.percent]
    low, high = min(numbers), max(numbers)
    step = 5 if high - low > 15 else 2
    # Names of marks stand to the left of their lines: the lowest needs room for its own.
    low, high = low - (high - low) * (0.5 if marks else 0.06), high + (high - low) * 0.06
    row, name, top = 62, 17, 22
    base = top + row * len(lines)
    height = base + name * len(marks) + 6

    def x(number: float) -> str:
        return f"{(number - low) / (high - low) * 100:.2f}%"

    ticks = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    drawn = [f'<text class="tick" x="{x(t)}" y="12" text-anchor="middle">{t}</text>' for t in ticks]
    # Lines show beside the bars only: a phone has no room for them beside the pages' names and figures above those.
    bands = [(0, top), *((top + row * place + 33, row - 33) for place in range(len(lines))), (base, height - base)]
    clip = "".join(f'<rect x="0" y="{y}" width="100%" height="{tall}"/>' for y, tall in bands)
    drawn.append(f'<clipPath id="bands">{clip}</clipPath><g clip-path="url(#bands)">')
    drawn += [f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="{top - 4}" y2="{base}"/>' for t in ticks]
    named = [_mark(mark, x(mark.percent or 0), top, base + name * (place + 1)) for place, mark in enumerate(marks)]
    drawn += [*(line for line, _ in named), "</g>", *(text for _, text in named)]
    drawn += [_bars(line, top + row * place, x) for place, line in enumerate(lines)]
    told = "; ".join(f"{line.page} {_interval(line.row, 'test_official')} official, "
                     f"{_interval(line.row, 'test_leak_free') or 'no'} leak-free" for line in lines)  # fmt: skip
    told += "." + (f" Marked: {'; '.join(f'{mark.name} {mark.percent:g} %' for mark in marks)}." if marks else "")
    described = f'role="img" aria-label="{html.escape(told)}"'
    return f'<svg class="axis" {described} width="100%" height="{height}">{"".join(drawn)}</svg>'


def _mark(mark: Mark, x: str, top: int, y: int) -> tuple[str, str]:
    """A mark's line, from the top to its name at `y`, and the name."""
    kind = next((kind for sign, kind in (("†", "test"), ("+", "more")) if sign in mark.sign), "plain")
    kind = "own" if mark.chosen == "the original" else kind
    text = f"{html.escape(mark.name)} {f'{mark.percent:.2f}'.rstrip('0').rstrip('.')}{mark.sign}"
    return (
        f'<line class="mark {kind}" x1="{x}" x2="{x}" y1="{top}" y2="{y - 4}"/>',
        f'<text class="name {kind}" x="{x}" dx="-6" y="{y}" text-anchor="end">{text}</text>',
    )


def _bars(line: Headline, y: int, x: Any) -> str:
    """A page's name and figures, and under them its two accuracies with their intervals."""
    figures, drawn = [], []
    for part, sign, kind, at in zip(TEST, "●○", ("official", "free"), (y + 39, y + 49), strict=True):
        accuracy, low, high = _scores(line.row, part)
        if accuracy is None:
            continue
        figures.append(f"{sign} {_interval(line.row, part)}")
        if low is not None and high is not None:
            drawn.append(f'<line class="{kind}" x1="{x(low * 100)}" x2="{x(high * 100)}" y1="{at}" y2="{at}"/>')
        drawn.append(f'<circle class="{kind}" cx="{x(accuracy * 100)}" cy="{at}" r="4"/>')
    names = f'<text class="page" x="0" y="{y + 14}">{html.escape(line.page)}</text>'
    names += f'<text class="figures" x="0" y="{y + 29}">{html.escape(" · ".join(figures))}</text>'
    return names + "".join(drawn)


def marks(fer2013: bool) -> tuple[Mark, ...]:
    """The lines on the axis: the original's two figures and the literature's; none where the images are others."""
    names = {"04_complex_cnn/default": "original, ComplexCNN", "06_final/rare_transforms": "original, rare_transforms"}
    own = [Mark(names[page], round(share * 100, 2), "FER2013", "the original") for page, share in ORIGINAL.items()]
    return (*own, *LITERATURE) if fer2013 else ()


# -------------------------------------------------------------------------------------------------------- reading order


def short_way(entries: Sequence[Row], results: Sequence[Row]) -> list[Row]:
    """The pages to read in half an hour, of those that stand."""
    wanted = [*SHORT_WAY[:-1], final_page(results), SHORT_WAY[-1]]
    standing = {entry["name"]: entry for entry in entries if entry.get("href") and entry["state"] != "failed"}
    return [standing[name] for name in wanted if name in standing]


def spread(shares: Iterable[float] = ORIGINAL.values()) -> float:
    """Half the widest 95 % interval of a share of PrivateTest's images."""
    return 1.96 * max(math.sqrt(share * (1 - share) / ORIGINAL_IMAGES) for share in shares)
