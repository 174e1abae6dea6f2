"""The report's figures: arrays and tables in, Axes out, each with a title that states what it shows, computed.

Every function makes one figure and returns its Axes (or an array of them); `show` puts it into the page with its alt
text and source. Emotions keep their colours throughout; train, validation and the arms of a claim have others, so that
no line is taken for an emotion. Figures are narrow and letters large: a phone shows them at half their size.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PolyQuadMesh, QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.image import _ImageBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from seaborn.utils import relative_luminance

from fer_core.claims import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, arm_interval, unit, words
from fer_core.evaluation import calibration_error
from fer_core.schema import EMOTIONS, listed, percent

OKABE_ITO = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2", "#56B4E9", "#4D4D4D")
INK, GREY = "#1f1f1f", "#6e6e6e"
TRAIN, VALIDATION = "#8a6d3b", "#4b2a8a"
ARM_COLOURS = ("#4b2a8a", "#0b6e4f", "#9b1d52", "#7a5c00", "#2f5d8a", "#555555")
ARM_STYLES = ("-", "--", ":")
POSSIBLE = {"%": (0, 1), "points": (-1, 1)}  # what a share can be, and a difference of shares
KEPT_BY = {"last": "the last", "best_validation_accuracy": "best on validation"}  # `select`, in a figure's words
VERDICT_COLOURS = {SUPPORTED: "#0b6e4f", NOT_SUPPORTED: "#9b1d52", INCONCLUSIVE: GREY}
WIDTH, DPI = 6.0, 110  # inches; 660 pixels
TITLE_LETTERS = 60  # that fit into WIDTH
# Marks of a figure, its gid. One with images is withheld as if they were faces, unless one of these says otherwise.
NO_FACES = "no single faces"  # its images are means over many
AS_DRAWN = "as drawn"  # cells with letters, or emotions' colours: not to be turned for a dark page
FEW_FACES = 10  # a mean over fewer faces could be recognised as one of them
ENOUGH_FACES = 20  # of which a mean with a heat map over it is drawn: groups of wrong answers may be small and alike
LABEL_BOX: Any = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.8}  # keeps a tick's text legible
FEW_EPOCHS = 4  # fewer are marked with dots: a line of one epoch would not be seen
# Relative luminance of a cell on which neither black nor white letters keep 4.5 : 1 once a dark page has dimmed it.
ILLEGIBLE = (0.172, 0.226)
ROW_LETTERS = 58  # of all classes' names under a confusion matrix; more are set upright
LABEL_LETTERS = 18  # of a class's name beside bars; the rest of a longer one is in the tables
FEW_IMAGES = 10  # a bin of fewer has no accuracy worth a dot: one image makes 0 or 100 %
MANY_CLASSES = 8  # from here on a confusion matrix has smaller cells, from TOO_MANY on cells without numbers
TOO_MANY_CLASSES = 15
# DejaVu comes with matplotlib, so that every machine draws the same letters; what it lacks (a class may have a Chinese
# name) comes from the first of these that the machine has, and is a box in the figure and a name in the tables if none.
OTHER_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS")
STYLE: Any = {
    "text.parse_math": False,  # a class may be called $5
    "font.family": ["DejaVu Sans", *sorted(set(get_font_names()) & set(OTHER_FONTS), key=OTHER_FONTS.index)],
    "font.size": 10, "axes.labelsize": 10, "axes.titlesize": 10,
    "xtick.labelsize": 9.5, "ytick.labelsize": 9.5, "figure.titlesize": 11, "figure.titleweight": "bold",
    "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.09,
    "figure.constrained_layout.h_pad": 0.06, "figure.dpi": DPI, "figure.facecolor": "white",
    "savefig.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.grid": False,
    "axes.axisbelow": True, "grid.color": "#d9d9d9", "lines.linewidth": 1.8, "axes.xmargin": 0.02,
}  # fmt: skip

Drawn = TypeVar("Drawn", Axes, np.ndarray)


@contextmanager
def _styled() -> Iterator[None]:
    """STYLE while a figure is drawn; the caller's rcParams afterwards."""
    with plt.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def palette(classes: Sequence[str]) -> dict[str, str]:
    """Colour of each class: an emotion keeps its own wherever it stands; other classes take the free ones in order.

    Parameters
    ----------
    classes : names

    Returns
    -------
    dict : hex colour by class
    """
    own = dict(zip(EMOTIONS, OKABE_ITO, strict=True))
    free = [colour for name, colour in own.items() if name not in classes] or list(OKABE_ITO)
    rest = [name for name in classes if name not in own]
    return {name: own.get(name) or free[rest.index(name) % len(free)] for name in classes}


def _short(name: str, letters: int = LABEL_LETTERS) -> str:
    """A name that fits: a longer one keeps its beginning and its end, which tell names of one kind apart."""
    head = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[: letters - 1 - head].rstrip()}…{name[-head:].lstrip()}"


def _short_names(names: Sequence[str]) -> list[str]:
    """Names that fit and still differ: those that shortening made equal start with their number, from 1."""
    made = [_short(name) for name in names]
    return [
        name if made.count(name) == 1 else _short(f"{number} {full}")
        for number, (name, full) in enumerate(zip(made, names, strict=True), 1)
    ]


def title(axes: Axes | np.ndarray) -> str:
    """The finding that a figure states, on one line.

    Parameters
    ----------
    axes : of any function here

    Returns
    -------
    str
    """
    return _figure(axes).get_suptitle().replace("\n", " ")


def show(axes: Axes | np.ndarray, lead: str, source: str, stand_in: Mapping[str, Any] | None = None) -> None:
    """Put a figure into the page as PNG, the same bytes for the same figure, and close it.

    Parameters
    ----------
    axes : what a function of this module returned, or of your own; images on it count as single faces unless its
        figure has ``set_gid(plots.NO_FACES)``
    lead : what is drawn, in a sentence; with the figure's title it is what a reader who cannot see it is told
    source : artifact and columns, as in "history.csv: epoch, train_loss"
    stand_in : what a published page shows in place of single faces: `notebook.stand_in`

    The output's metadata is ``{"image/png": {"alt": …, "source": …, "lead": …}, "fer": {"faces": …, "data": …,
    "stand_in": …}}``, where alt is lead and title, and data ``{"name": …, "csv": …}``, just what was plotted; data and
    stand_in only where known. ``"as_drawn": True`` stands beside them where a dark page must not turn light into dark:
    images, emotions' colours, and cells with letters.
    """
    from IPython.display import display

    png, metadata = picture(axes, lead, source, stand_in)
    display({"image/png": png, "text/plain": metadata["image/png"]["alt"]}, raw=True, metadata=metadata)


@_styled()
def picture(
    axes: Axes | np.ndarray, lead: str, source: str, stand_in: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, Any]]:
    """A figure's PNG and its output's metadata, as `show` puts them into the page; closes it.

    Parameters
    ----------
    axes, lead, source, stand_in : as for `show`

    Returns
    -------
    bytes, dict : PNG, metadata of the output
    """
    figure, png = _figure(axes), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    images = bool(figure.findobj(lambda artist: isinstance(artist, _ImageBase)))
    cells = bool(figure.findobj(lambda artist: isinstance(artist, QuadMesh | PolyQuadMesh)))
    unknown = figure.get_gid() != NO_FACES and (images or (cells and figure.get_gid() != AS_DRAWN))
    fer: dict[str, Any] = {"faces": bool(stand_in) or unknown}
    name, plotted = vars(figure).get("plotted", ("", None))
    if stand_in is not None:
        name, plotted = "faces", pd.DataFrame(stand_in["rows"], columns=stand_in["columns"])
        fer["stand_in"] = {**stand_in, "line": title(axes)}
    if plotted is not None:
        fer["data"] = {"name": name, "csv": plotted.to_csv(index=False, lineterminator="\n", float_format="%.6g")}
    plt.close(figure)
    # What the title does not say is for all readers, not only for those who cannot see.
    alt = " ".join(filter(None, (lead, title(axes) and f"{title(axes)}.")))
    told: dict[str, Any] = {"alt": alt, "source": source, "lead": lead}
    if figure.get_gid() == AS_DRAWN or images or cells:
        told["as_drawn"] = True
    return png.getvalue(), {"image/png": told, "fer": fer}


# -- training


@_styled()
def loss_curves(
    history: pd.DataFrame, selected_epoch: int | None = None, others: Sequence[pd.DataFrame] = (), rule: str = ""
) -> np.ndarray:
    """Losses over the learning rate, on one axis of epochs.

    Parameters
    ----------
    history : the run shown in detail; columns of history.csv
    selected_epoch : whose weights are kept, marked
    others : further seeds' histories; with them a band shows the range over all seeds, and a dotted line their mean
    rule : how that epoch was selected, `select` of the parameters

    Returns
    -------
    Axes (2,) : losses, learning rate
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.2), sharex=True, height_ratios=(3, 1))
    loss = history.set_index("epoch")["validation_loss"].astype(float)
    finite = loss[np.isfinite(loss)]
    finding = "No epoch has a finite validation loss"
    if len(finite):
        finding = f"Validation loss is lowest at epoch {finite.idxmin()} ({finite.min():.3f})"
        if len(finite) < len(loss):
            finding += f" and not a number from epoch {loss.index[~np.isfinite(loss)][0]} on"
        elif finite.idxmin() != finite.index[-1]:
            finding += f" and ends at {finite.iloc[-1]:.3f}"
    lines = {"train_loss": ("train", TRAIN, "-"), "validation_loss": ("validation", VALIDATION, "-")}
    # A first epoch, or one that went astray, must not flatten all others.
    values = pd.concat([history, *others])[list(lines)].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    axes[0].set_ylabel("loss (nats)")
    if values.size and values.max() > (cut := 3 * float(np.median(values))):
        axes[0].set(ylim=(min(float(values.min()), cut) * 0.9, cut), ylabel=f"loss (nats, cut at {cut:.1f})")
    _curves(axes[0], history, others, lines, selected_epoch, rule)
    _rate(axes[1], history)
    axes[1].set_xlabel(_epoch_label(others))
    figure.align_ylabels(axes)
    return _finished(axes, finding, "loss_curves", _seeds_table(history, others, ["learning_rate", *lines]))


@_styled()
def accuracy_curves(
    history: pd.DataFrame, selected_epoch: int | None = None, others: Sequence[pd.DataFrame] = (), rule: str = ""
) -> Axes:
    """Train (as trained; clean where measured) and validation accuracy by epoch.

    Parameters
    ----------
    history, selected_epoch, others, rule : as in `loss_curves`

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.4))
    lines = {"train_accuracy": ("train", TRAIN, "-"), "validation_accuracy": ("validation", VALIDATION, "-")}
    if history["train_clean_accuracy"].notna().any():
        lines["train_clean_accuracy"] = ("train, clean", GREY, "--")
    row = history[history["epoch"] == selected_epoch] if selected_epoch else history.tail(1)
    finding = "No epoch was trained to its end"
    if row["validation_accuracy"].notna().any():
        epoch, train, validation = row[["epoch", "train_accuracy", "validation_accuracy"]].to_numpy(dtype=float)[0]
        finding = f"Validation accuracy is {percent(validation)} at epoch {epoch:.0f}, training "
        finding += f"{_value(abs(train - validation), 'gap')} {'above' if train >= validation else 'below'} it"
    _curves(ax, history, others, lines, selected_epoch, rule)
    ax.yaxis.set_major_formatter(_percent_tick)
    ax.set(ylabel="accuracy", xlabel=_epoch_label(others))
    return _finished(ax, finding, "accuracy_curves", _seeds_table(history, others, list(lines)))


# -- evaluation


@_styled()
def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Axes:
    """int (k, k), true by predicted: coloured by share of its row, with share and count in each cell.

    Parameters
    ----------
    matrix : int (k, k), true by predicted
    classes : k names

    Returns
    -------
    Axes
    """
    n, k = matrix.sum(axis=1), len(classes)
    shares = matrix / np.maximum(n, 1)[:, None]
    mistakes = shares * ~np.eye(k, dtype=bool)
    named = {f"{classes[i]} for {classes[j]}": mistakes[i, j] for i, j in np.argwhere(mistakes)}
    finding = "No image was given a wrong label"
    if named:
        alike, share = _alike(named, max, _rounded)
        true, answer = divmod(int(mistakes.argmax()), k)
        finding = f"{_capital(classes[true])} is most often taken for {classes[answer]} ({share} of {n[true]:,})"
        if len(alike) > 1:
            finding = f"Most often mistaken ({share}): {_listed(alike)}"
    both = [f"{_rounded(share)}\n{count:,}" for share, count in zip(shares.flat, matrix.flat, strict=True)]
    cells = both, [f"{count}" if count else "" for count in matrix.flat]
    told = "share of the row, count", "share of the row", "count"
    ax = _heat_map(shares, cells, classes, n, "Purples", (0, 1), told)
    counts = pd.DataFrame(matrix, columns=[f"predicted {name}" for name in classes])
    counts.insert(0, "true", list(classes))
    return _finished(ax, finding, "confusion_matrix", counts)


def _heat_map(
    values: np.ndarray,
    cells: tuple[Sequence[str], Sequence[str]],
    classes: Sequence[str],
    n: np.ndarray,
    colours: str,
    limits: tuple[float, float],
    told: tuple[str, str, str],
) -> Axes:
    """True (rows, with their `n`) by predicted: float (k, k), in each cell what is said of it.

    Of `cells` the first where there is room, the second where there are many classes, none where there are too many;
    `told` says what the first are, else what the colour is and what the second are.
    """
    import seaborn

    k, names = len(classes), _short_names(classes)
    drawn: np.ndarray | None = np.reshape(cells[0], (k, k))
    high, xlabel = 0.62, told[0]  # of a cell, in inches
    if k >= TOO_MANY_CLASSES:
        high, drawn, xlabel = 0.2, None, f"colour: {told[1]}; in the same order"
    elif k >= MANY_CLASSES:
        high, drawn, xlabel = 0.42, np.reshape(cells[1], (k, k)), f"colour: {told[1]}; number: {told[2]}"
    _, ax = plt.subplots(figsize=(WIDTH, 1.2 + high * k))
    seaborn.heatmap(
        values, annot=drawn, fmt="", cmap=_legible(colours), vmin=limits[0], vmax=limits[1], cbar=False, ax=ax,
        annot_kws={"size": 9}, linewidths=0.5, linecolor="white",
        xticklabels=names if k < TOO_MANY_CLASSES else False,
        yticklabels=[f"{name} ({count:,})" for name, count in zip(names, n, strict=True)],
    )  # fmt: skip
    _figure(ax).set_gid(AS_DRAWN)  # turned for a dark page, half of the cells would lose their letters
    dark = np.atleast_1d(relative_luminance(np.asarray(ax.collections[0].get_facecolor()))) <= ILLEGIBLE[0]
    # Black or white, whichever stands out more.
    for text, on_dark in zip(ax.texts, dark if ax.texts else (), strict=True):
        text.set_color("white" if on_dark else "black")
    ax.set(xlabel=f"predicted ({xlabel})", ylabel="true (n)")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=90 if k * max(map(len, names)) > ROW_LETTERS else 0)
    ax.tick_params(axis="y", rotation=0)
    return ax


def _legible(name: str) -> ListedColormap:
    """A colour map whose few colours on which no letters are legible give way to the nearest on which some are."""
    colours = plt.get_cmap(name)(np.linspace(0, 1, 256))
    found = relative_luminance(colours)
    good = np.flatnonzero((found <= ILLEGIBLE[0]) | (found >= ILLEGIBLE[1]))
    nearest = [good[np.abs(good - place).argmin()] for place in range(len(colours))]
    return ListedColormap(colours[nearest])


@_styled()
def class_bars(metrics: Mapping[str, Any], leak_free: Mapping[str, Any] | None = None) -> np.ndarray:
    """Precision, recall and F1 of each class: Axes (3,), a ring where the images without a copy have it.

    Parameters
    ----------
    metrics : one split of metrics.json
    leak_free : the same of those images alone

    Returns
    -------
    Axes (3,) : precision, recall, F1
    """
    table = pd.DataFrame(metrics["classes"]).T[["n", "precision", "recall", "f1"]].astype(float)
    recall = table["recall"].dropna()
    worst, lowest = _alike(recall, min, _rounded)
    counted = f", n\u00a0=\u00a0{table['n'][worst[0]]:,.0f}" if len(worst) == 1 else ""
    free = pd.DataFrame(leak_free["classes"]).T.loc[table.index, table.columns].astype(float) if leak_free else None
    if free is not None and len(worst) == 1:
        counted += f"; without copies {_rounded(free['recall'][worst[0]])}, n\u00a0=\u00a0{free['n'][worst[0]]:,.0f}"
    finding = f"{_capital(_listed(worst))} recall is lowest ({lowest}{counted})"
    if len(worst) == len(recall):
        finding = f"Recall is {lowest} for every class"
    elif len(worst) > 1 and not recall[worst].any():
        finding = f"{len(worst)} of {len(recall)} classes have no recall at all: {_listed(worst, 5)}"
    axes = _bars(table[["precision", "recall", "f1"]], shares=True, n=table["n"], rings=free)
    axes[2].set_title("F1")
    if free is not None:
        axes[0].set_xlabel("○ without copies")
        table = table.join(free.add_suffix("_leak_free"))
    return _finished(axes, finding, "class_bars", table.rename_axis("class").reset_index())


@_styled()
def class_recalls(table: pd.DataFrame) -> np.ndarray:
    """Recall of each class (rows) in each arm (columns): Axes (arms,). The finding compares the last with the first.

    Parameters
    ----------
    table : recalls (0–1), a row a class, a column an arm

    Returns
    -------
    Axes (arms,)
    """
    change = (table.iloc[:, -1] - table.iloc[:, 0]).dropna().astype(float)
    finding = "No recall can be compared"
    if len(change):
        names, _ = _alike(change.abs(), max, lambda share: _signed(share * 100, 1))
        changes = " and ".join(dict.fromkeys(_signed(change[name] * 100, 1) for name in names))
        finding = f"Recall changes most for {_listed(names)}: {changes} points with {table.columns[-1]}"
        if not change.any():
            finding = f"{_capital(str(table.columns[-1]))} changes no class's recall"
    return _finished(_bars(table, shares=True), finding, "class_recalls", table.rename_axis("class").reset_index())


@_styled()
def reliability(table: pd.DataFrame, scaled: pd.DataFrame, temperature: float, images: str) -> np.ndarray:
    """Reliability diagram over the number of images in each bin, before and after temperature scaling.

    Parameters
    ----------
    table : an `evaluation.calibration` table
    scaled : the same images' table with logits divided by `temperature`
    images : which images the temperature was fitted on, in words

    Returns
    -------
    Axes (2,) : accuracy by confidence, images by confidence
    """
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 4.8), sharex=True, height_ratios=(3, 1))
    filled, error = table[table["n"] > 0], calibration_error(table)
    finding = "No image has a probability"
    if error is not None:
        lead = float(np.average(filled["confidence"] - filled["accuracy"], weights=filled["n"])) * 100
        finding = f"{'Over' if lead > 0 else 'Under'}confident by {abs(lead):.1f} points on average "
        finding += f"(ECE {percent(error)}; {percent(calibration_error(scaled))} at temperature {temperature:.2f})"
    axes[0].plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
    drawn = table[table["n"] >= FEW_IMAGES]
    axes[0].plot(drawn["confidence"], drawn["accuracy"], "o-", color=VALIDATION, markersize=5, label="as trained")
    after = scaled[scaled["n"] >= FEW_IMAGES]
    text, white = f"at temperature {temperature:.2f}, fitted on {images}", {"markersize": 5, "markerfacecolor": "white"}
    axes[0].plot(after["confidence"], after["accuracy"], "D-", color=TRAIN, label=text, **white)
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1.02), frameon=False, borderaxespad=0, labelspacing=0.3)
    axes[0].set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    if len(drawn) < len(filled) or len(after) < int((scaled["n"] > 0).sum()):
        axes[0].set_ylabel(f"accuracy (bins of\n{FEW_IMAGES} images or more)")
    width = table["high"] - table["low"]
    axes[1].bar(table["low"], table["n"], width, align="edge", color=VALIDATION, edgecolor="white")
    axes[1].stairs(scaled["n"], [*scaled["low"], scaled["high"].iloc[-1]], color=TRAIN, linewidth=1.5)
    axes[1].set(ylabel="images", xlabel="confidence (probability of the answer)")
    axes[1].yaxis.set_major_formatter(_count_tick)
    axes[0].yaxis.set_major_formatter(_percent_tick)
    axes[1].xaxis.set_major_formatter(_percent_tick)
    figure.align_ylabels(axes)
    both = pd.concat([table.assign(temperature=1.0), scaled.assign(temperature=temperature)])
    return _finished(axes, finding, "reliability", both)


@_styled()
def test_intervals(metrics: Mapping[str, Any]) -> Axes:
    """Accuracy of each scored split of metrics.json with its Wilson 95 % interval.

    Parameters
    ----------
    metrics : metrics.json, of which the scored splits are drawn

    Returns
    -------
    Axes
    """
    names = {"validation": "validation", "test_official": "test, official", "test_leak_free": "test, leak-free"}
    scored = {split: metrics[split] for split in names if metrics.get(split)}
    rows = [
        (f"{names[split]}\n(n = {m['n']:,})", m["accuracy"], m["accuracy_low"], m["accuracy_high"])
        for split, m in scored.items()
    ]
    if "test_official" in scored and "test_leak_free" in scored:
        official, leak_free = scored["test_official"]["accuracy"], scored["test_leak_free"]["accuracy"]
        finding = f"Test accuracy is {percent(official)} official, {percent(leak_free)} leak-free: "
        # Of the figures as printed: a reader who subtracts them finds this one.
        points = round(round(official * 100, 1) - round(leak_free * 100, 1), 1)
        made = f"{'add' if points > 0 else 'cost'} {abs(points):.1f}\u00a0points" if points else "make no difference"
        finding += f"test images with copies {made}"
    else:
        finding = ", ".join(
            f"{_capital(names[split])} accuracy is {percent(m['accuracy'])}" for split, m in scored.items()
        )
    table = pd.DataFrame(rows, columns=["name", "value", "low", "high"])
    return accuracies(table, finding, "accuracy (95 % interval over images)")


@_styled()
def accuracies(table: pd.DataFrame, finding: str, xlabel: str = "accuracy") -> Axes:
    """Accuracies, a row each: columns name, value, low, high (NaN: unknown), and ours (optional; others are hollow).

    Parameters
    ----------
    table : name, value, low, high (fractions), and perhaps ours
    finding : the title
    xlabel : what the axis shows

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.42 * len(table)))
    for y, row in enumerate(table.to_dict("records")):
        value, low, high = float(row["value"]), float(row["low"]), float(row["high"])
        colour, fill = (VALIDATION, VALIDATION) if row.get("ours", True) else (GREY, "white")
        # Among values far apart an interval is hardly wider than a dot: its ends are capped, and the dot is small.
        ax.plot([low, high], [y, y], "-|", color=colour, linewidth=2, markersize=10, markeredgewidth=1.6)
        ax.plot(value, y, "o", color=colour, markerfacecolor=fill, markersize=4.5)
        text = percent(value) + (f"  [{low * 100:.1f}, {high * 100:.1f}]" if np.isfinite(low) else "")
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=colour)
    ax.margins(x=0.06)
    _rows(ax, [str(name) for name in table["name"]], xlabel)
    ax.xaxis.set_major_formatter(_percent_tick)
    plotted = table.assign(name=table["name"].astype(str).str.replace("\n", " "))
    return _finished(ax, finding, "accuracies", plotted)


# -- data


@_styled()
def class_counts(counts: pd.DataFrame) -> np.ndarray:
    """Images of each class (rows) in each split (columns): Axes (splits,). The finding is about the first column.

    Parameters
    ----------
    counts : images, a row a class, a column a split

    Returns
    -------
    Axes (splits,)
    """
    split, first = counts.columns[0], counts.iloc[:, 0]
    (most, _), (least, _) = (_alike(first, extreme, str) for extreme in (max, min))
    have, lack = ("has" if len(names) == 1 else "have" for names in (most, least))
    if first.min() == first.max():
        finding = f"All classes have {first.max():,} {split} images each"
    elif first.min():
        finding = f"{_capital(_listed(most))} {have} {first.max() / first.min():.1f} times as many {split} images "
        finding += f"as {_listed(least)} ({first.max():,} against {first.min():,})"
    else:
        finding = f"{_capital(_listed(least))} {lack} no {split} image, {_listed(most)} {have} {first.max():,}"
    return _finished(_bars(counts), finding, "class_counts", counts.rename_axis("class").reset_index())


@_styled()
def mean_faces(means: np.ndarray, classes: Sequence[str], counts: Sequence[int]) -> np.ndarray:
    """Mean face of each class, (k, h, w) in 0–255, with the number of images behind it: Axes (k,).

    Parameters
    ----------
    means : float (k, h, w) or (k, h, w, 3), 0–255
    classes : k names
    counts : how many images each mean is over

    Returns
    -------
    Axes (k,)
    """
    spread = [float(np.std(mean)) for mean in means]
    most, least = classes[int(np.argmax(spread))], classes[int(np.argmin(spread))]
    titles = [f"{name}\n{n:,}" for name, n in zip(classes, counts, strict=True)]
    finding = f"The mean face of {most} has the most contrast, that of {least} the least"
    axes = images_grid(means, titles, finding)
    if not any(0 < n < FEW_FACES for n in counts):
        _figure(axes).set_gid(NO_FACES)
    table = pd.DataFrame({"class": list(classes), "n": counts, "contrast": spread})
    return _finished(axes, finding, "mean_faces", table)


@_styled()
def pixel_statistics(brightness: np.ndarray, contrast: np.ndarray, flat: int) -> np.ndarray:
    """Images' mean grey (n,) and standard deviation (n,), 0–255: Axes (2,). `flat` of them have next to no contrast.

    Parameters
    ----------
    brightness : (n,), each image's mean grey, 0–255
    contrast : (n,), its standard deviation
    flat : how many images have next to no contrast

    Returns
    -------
    Axes (2,)
    """
    _, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8), sharey=True)
    low, high = np.percentile(brightness, [5, 95])
    finding = f"Nine in ten images have a mean grey of {low:.0f} to {high:.0f}; {flat} "
    finding += f"{'image has' if flat == 1 else 'images have'} next to no contrast"
    bins = []
    drawn = {"mean grey": brightness, "standard deviation of grey": contrast}
    for ax, (label, values) in zip(axes, drawn.items(), strict=True):
        middle = float(np.median(values))
        n, edges, _ = ax.hist(values, bins=40, color=VALIDATION)
        bins.append(pd.DataFrame({"of": label, "low": edges[:-1], "high": edges[1:], "images": n}))
        ax.axvline(middle, color=INK, linestyle="--", linewidth=1)
        ax.text(middle, 1.01, f"median {middle:.0f}", transform=ax.get_xaxis_transform(), ha="center", va="bottom")
        ax.set_xlabel(f"{label} (0–255)")
    axes[0].set_ylabel("images")
    axes[0].yaxis.set_major_formatter(_count_tick)
    return _finished(axes, finding, "pixel_statistics", pd.concat(bins))


@_styled()
def near_copy_curve(table: pd.DataFrame) -> Axes:
    """Test images with a near copy, by similarity.

    Parameters
    ----------
    table : of `data.near_copies`: threshold (cosine), n (test images), mirrored, agreement (0–1; NaN: no pair)

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.2))
    table = table.sort_values("threshold").reset_index(drop=True)
    row = table.iloc[int(np.argmin(np.abs(table["threshold"] - 0.98)))].astype(float)
    finding = f"{row['n']:,.0f} more test images have a near copy above {row['threshold']:g}"
    if np.isfinite(row["agreement"]):
        finding += f"; {_rounded(row['agreement'])} of the pairs share their label"
    ends = []
    for column, label, colour in (("n", "as it stands", VALIDATION), ("mirrored", "mirrored", GREY)):
        ax.plot(table["threshold"], table[column], "o-", color=colour, markersize=4)
        ends.append((float(table[column].iloc[0]), label, colour))
    ax.invert_xaxis()  # the strictest on the left, so that the count rises to the right, where the labels stand
    ax.set(xlabel="similarity asked for (cosine of mean-free pixels)", ylabel="test images", ylim=(0, None))
    ax.yaxis.set_major_formatter(_count_tick)
    _end_labels(ax, ends)
    return _finished(ax, finding, "near_copies", table)


@_styled()
def images_grid(images: np.ndarray, titles: Sequence[str], finding: str = "", columns: int = 8) -> np.ndarray:
    """Images with a title each, taken for single faces unless marked otherwise: Axes (n,).

    Parameters
    ----------
    images : uint8 (n, h, w) grey or (n, h, w, 3), 0–255; of means float
    titles : n strings; ten letters a line are shown, longer ones are shortened
    finding : the title
    columns : images side by side, at most

    Returns
    -------
    Axes (n,)
    """
    # Few images do not grow into posters, and none leaves a low empty place; the title has the whole width anyway.
    columns = max(min(columns, len(images)), 4) if len(images) else 8
    if not len(images):
        images, titles = np.full((1, 8, 8), 255, np.uint8), [""]
    rows = -(-len(images) // columns)
    lines = max(text.count("\n") + 1 for text in titles)
    side = WIDTH / columns
    height = rows * (side * 0.9 + 0.16 * lines + 0.1) + 0.2 * -(-len(finding) // TITLE_LETTERS) + 0.1
    _, axes = plt.subplots(rows, columns, squeeze=False, figsize=(WIDTH, height))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, image, text in zip(axes.flat, images, titles, strict=False):
        # A mean of colour pictures is float, which would be taken for 0 … 1.
        ax.imshow(image.astype(np.uint8) if image.ndim == 3 else image, cmap="gray", vmin=0, vmax=255)
        ax.set_title("\n".join(_short(line, int(13.4 * side)) for line in text.split("\n")), fontsize=9)
    return _finished(axes.ravel()[: len(images)], finding)


@_styled()
def attention(means: np.ndarray, heat: np.ndarray, counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Where the network looks, as class means: over right answers above, over wrong ones below.

    Parameters
    ----------
    means : float (2, k, h, w) or (2, k, h, w, 3), 0–255: the mean face of the images so answered, right and wrong
    heat : float (2, k, h, w) in 0–1: their mean Grad-CAM map
    counts : int (2, k): how many images each mean is over; one over fewer than ENOUGH_FACES is not drawn
    classes : k names

    Returns
    -------
    Axes (2, k)
    """
    drawn = counts >= ENOUGH_FACES
    likeness = {
        name: float(np.corrcoef(heat[0, i].ravel(), heat[1, i].ravel())[0, 1])
        for i, name in enumerate(classes)
        if drawn[:, i].all() and heat[0, i].std() and heat[1, i].std()
    }
    finding = "No class has enough right and wrong answers to compare where they look"
    if likeness:
        (most, high), (least, low) = _extremes(likeness, lambda r: _minus(f"{r:.2f}"))
        finding = f"Right and wrong answers draw on the same places most for {most} (r = {high})"
        finding += f", least for {least} ({low})"
        if len(likeness) == 1:
            finding = f"Right and wrong answers for {most}, the one class to compare, draw on like places (r = {high})"
        elif high == low:
            finding = f"Right and wrong answers draw on the same places for {most} alike (r = {high})"
    # The strongest of all means is 1: every map is rescaled alike, so that they can be compared.
    heat = heat / max(float(heat[drawn].max(initial=0)), np.finfo(np.float32).tiny)
    above = [f"{name}\nn = {n:,}" for name, n in zip(classes, counts[0], strict=True)]
    axes = _two_rows(means.astype(np.uint8), [above, [f"n = {n:,}" for n in counts[1]]], finding)
    for ax, shown, warmth in zip(axes.flat, drawn.flat, heat.reshape(-1, *heat.shape[2:]), strict=True):
        if shown:
            ax.imshow(warmth, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * np.clip(warmth, 0, 1))
        else:
            ax.images[0].remove()
            ax.text(0.5, 0.5, "too few", transform=ax.transAxes, ha="center", va="center", color=GREY)
    told = "Yellow: most decisive for the answer, violet: less, grey: hardly"
    told += f"\neach picture: mean of at most {int(counts.max(initial=0)):,} images"
    figure = _figure(axes)
    figure.set_gid(NO_FACES)
    figure.set_figheight(figure.get_figheight() + 0.4)
    figure.supxlabel(told, x=0.012, ha="left", fontsize=9.5)
    for row, word in enumerate(("right", "wrong")):
        for ax in axes[row, :: _across(len(classes))]:
            ax.set_ylabel(word)
    table = pd.DataFrame({"answer": list(classes), "right": counts[0], "wrong": counts[1]})
    table["likeness"] = [likeness.get(name, np.nan) for name in classes]
    return _finished(axes, finding, "attention", table)


def _across(k: int) -> int:
    """How many of k classes stand side by side."""
    return -(-k // -(-k // MANY_CLASSES))


def _two_rows(images: np.ndarray, titles: Sequence[Sequence[str]], finding: str) -> np.ndarray:
    """Pairs of images (2, k, …), one above the other, in as many lines as k classes need: Axes (2, k)."""
    k, across = images.shape[1], _across(images.shape[1])
    columns, lines = max(across, 4), -(-k // across)
    line, column = np.divmod(np.arange(k), across)

    def laid_out(values: np.ndarray, blank: Any) -> np.ndarray:
        grid = np.full((2, lines, columns, *values.shape[2:]), blank, values.dtype)
        grid[:, line, column] = values
        return grid.swapaxes(0, 1).reshape(-1, *values.shape[2:])  # (2, lines, columns, …) -> (n, …)

    axes = images_grid(laid_out(images, 255), laid_out(np.array(titles, object), "").tolist(), finding, columns)
    axes = axes.reshape(lines, 2, columns).swapaxes(0, 1)
    used = axes[:, line, column]  # (2, k)
    for ax in set(axes.flat) - set(used.flat):
        ax.set_visible(False)
    return used


@_styled()
def augmentation_grid(image: np.ndarray, variants: np.ndarray, name: str = "One face", mean_of: int = 1) -> np.ndarray:
    """One face uint8 (h, w), framed, and what the training transforms make of it, (n, h, w): Axes (n + 1,).

    Parameters
    ----------
    image : uint8 (h, w)
    variants : uint8 (n, h, w)
    name : what is done to it
    mean_of : how many faces it is the mean of; one of few could be recognised and is marked as such

    Returns
    -------
    Axes (n + 1,)
    """
    change = np.abs(variants.astype(float) - image.astype(float)).mean()
    finding = f"{name} in {len(variants)} epochs: its pixels change by {change:.0f} of 255 on average"
    titles = ["original", *(str(epoch) for epoch in range(1, len(variants) + 1))]
    axes = images_grid(np.concatenate([image[None], variants]), titles, finding)
    axes[0].spines[:].set(visible=True, color=INK, linewidth=2)
    if mean_of >= FEW_FACES:
        _figure(axes).set_gid(NO_FACES)
    return axes


# -- claims


@_styled()
def arm_curves(
    arms: Mapping[str, Sequence[pd.DataFrame]],
    column: str = "validation_accuracy",
    band: bool = False,
    levels: Mapping[str, float] | None = None,
) -> Axes:
    """A column of history by epoch: an arm's seeds thin, their mean (over those that got there) thick; ≤ 18 arms.

    With `band` the seeds are a band from the lowest to the highest.

    Parameters
    ----------
    arms : {name: histories of its seeds}
    column : an accuracy or a loss of history.csv, or gap
    band : whether the range over seeds is drawn as a band
    levels : {words: value} to be seen beside the curves, dashed

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.6))
    for text, level in (levels or {}).items():
        ax.axhline(level, color=GREY, linestyle="--", linewidth=1)
        ax.annotate(
            text, (0.995, level), (0, 2), ax.get_yaxis_transform(), "offset points", ha="right", color=GREY, fontsize=9
        )
    tables = {arm: _side_by_side(histories, column) for arm, histories in arms.items()}
    means = {arm: table.mean(axis=1).dropna() for arm, table in tables.items()}
    ends: list[tuple[float, str, str]] = []
    kinds: dict[str, tuple[str, str]] = {}
    for i, (arm, table) in enumerate(tables.items()):
        colour, turn = ARM_COLOURS[i % len(ARM_COLOURS)], i // len(ARM_COLOURS) % len(ARM_STYLES)
        mean, style = means[arm], ARM_STYLES[turn]
        kinds[arm] = style, "osD"[turn] if len(mean) < FEW_EPOCHS else ""
        # Arms with the very same curve take turns along it, and their dots are rings around each other.
        twins = [other for other in means if mean.equals(means[other])]
        place, many = twins.index(arm), len(twins)
        thick, thin = (style if many == 1 else (n * place, (n, n * (many - 1))) for n in (5, 14))
        if not band:
            ax.plot(table.index, table.to_numpy(), linestyle=thin, color=colour, linewidth=0.9, alpha=0.65)
        elif table.shape[1] > 1:
            ax.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.18, linewidth=0)
        if len(mean):
            size = 6 + 2.5 * (many - 1 - place)
            kind: Any = {"linestyle": thick, "marker": kinds[arm][1], "markersize": size}
            ax.plot(mean.index, mean, color=colour, linewidth=2.2, **kind)
            ends.append((float(mean.iloc[-1]), arm, colour))
    name = column.replace("_", " ")
    finding = f"No arm has a {name}"
    if ends:
        values = {arm: value for value, arm, _ in ends}
        (first, high), (last, low) = _extremes(values, partial(_value, metric=column), _arms)
        finding = f"{_capital(name)} ends highest with {first} ({high}), lowest with {last} ({low})"
        if high == low:
            finding = f"{_capital(name)} ends at {high}" + f" with {first}" * (len(arms) > 1)
    ax.set_xlabel("epoch")
    _metric_axis(ax, column)
    _epochs(ax)
    _end_labels(ax, ends, kinds)
    plotted = ["arm", "run", "epoch", column]
    parts = [run.assign(arm=arm, run=n)[plotted] for arm, runs in arms.items() for n, run in enumerate(runs)]
    return _finished(ax, finding, f"arms_{column}", pd.concat(parts) if parts else None)


@_styled()
def arm_values(table: pd.DataFrame, metric: str) -> Axes:
    """Each run a dot, each arm its mean and 95 % interval: a `claims.arm_table`.

    Parameters
    ----------
    table : arm, seed, value
    metric : what the values are

    Returns
    -------
    Axes
    """
    groups = {str(arm): rows["value"].to_numpy(dtype=float) for arm, rows in table.groupby("arm", sort=False)}
    means = {arm: arm_interval(values, metric).value for arm, values in groups.items()}
    known = {arm: mean for arm, mean in means.items() if mean is not None}
    finding = f"No run has a value of {words(metric)}"
    if known:
        (first, high), (last, low) = _extremes(known, partial(_value, metric=metric), _arms)
        finding = f"{_capital(words(metric))} is {high}" + f" with {first}" * (len(groups) > 1)
        finding += f", {low} with {last}" if high != low else ""
    return _finished(_dot_rows(groups, metric), finding, f"arms_{metric}", table)


@_styled()
def claim_effects(table: pd.DataFrame) -> Axes:
    """All claims, each row on its own scale, around zero, with its threshold as a tick.

    Effects of one claim are shares of runs, of another points of accuracy: one scale would flatten most of them.

    Parameters
    ----------
    table : claim, effect, low, high, verdict (claims.csv), threshold, `told`, the effect in words, and `by_another`,
        whether another condition of the rule decided

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.5 * len(table)))
    counts = [f"{n} {'is' if n == 1 else 'are'} {verdict}" for verdict, n in table["verdict"].value_counts().items()]
    finding = f"Of {len(table)} claims " + ", ".join(counts)
    numbers = table[["effect", "low", "high", "threshold"]].astype(float).to_numpy()
    words = zip(table["verdict"].astype(str), table["told"], table["by_another"], numbers, strict=True)
    for y, (verdict, told, by_another, (effect, low, high, threshold)) in enumerate(words):
        span = max((abs(v) for v in (effect, low, high, threshold) if np.isfinite(v)), default=0) or 1.0
        colour = VERDICT_COLOURS.get(verdict, GREY)
        fill, marker = colour if colour != GREY else "white", "o" if verdict == SUPPORTED else "D"
        ax.plot([low / span, high / span], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
        ax.plot([threshold / span] * 2, [y - 0.22, y + 0.22], color=INK, linewidth=1)
        ax.plot(effect / span, y, marker, color=colour, markerfacecolor=fill, markersize=7)
        ax.text(1.12, y, f"{verdict}{' *' * by_another}\n{told}", va="center", color=colour, fontsize=9.5)
    ax.axvline(0, color=GREY, linewidth=1)
    _rows(
        ax,
        ["\n".join(textwrap.wrap(str(claim), 24)) for claim in table["claim"]],
        "← lower   0   higher →\n(each row on its own scale; |: its threshold)"
        + "\n*: another condition of the rule decided" * bool(table["by_another"].any()),
    )
    ax.set(xlim=(-1.08, 1.08), xticks=[])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return _finished(ax, finding, "claims", table[["claim", "effect", "low", "high", "threshold", "verdict"]])


# -- comparisons


@_styled()
def confusion_difference(first: np.ndarray, second: np.ndarray, classes: Sequence[str], names: tuple[str, str]) -> Axes:
    """Second minus first confusion matrix, int (k, k) of the same images: each cell in points of its row, in images.

    Parameters
    ----------
    first, second : int (k, k), true by predicted, of the same images
    classes : k names
    names : of the two

    Returns
    -------
    Axes
    """
    n, k = np.maximum(first.sum(axis=1), second.sum(axis=1)), len(classes)
    change = (second - first) / np.maximum(n, 1)[:, None]
    true, answer = divmod(int(np.abs(change).argmax()), k)
    finding = "Both answer each class alike"
    if change[true, answer]:
        word = "recognised" if true == answer else f"taken for {classes[answer]}"
        more = "more" if change[true, answer] > 0 else "less"
        finding = f"{names[1]}: {classes[true]} is {word} {more} often"
        points = _signed(abs(change[true, answer]) * 100, 1)
        finding += f" ({_signed(change[true, answer] * 100, 1)} points of {n[true]:,})"
        alike = np.array([[share != 0 and _signed(abs(share) * 100, 1) == points for share in row] for row in change])
        alike[true] &= np.sign(change[true]) == np.sign(change[true, answer])  # of two classes one mirrors the other
        others = int(alike.sum()) - 1
        finding += f"; {others} other{' cell changes' if others == 1 else ' cells change'} as much" if others else ""
    pairs = list(zip(change.flat, (second - first).flat, strict=True))
    both = [f"{_signed(share * 100, 1)}\n{_signed(count, 0)}" if count else "·" for share, count in pairs]
    cells = both, [_signed(count, 0) if count else "" for _, count in pairs]
    top = 1.6 * max(float(np.abs(change).max()), 0.01)
    told = "change in points of the row, in images", "points of the row", "images"
    ax = _heat_map(change, cells, classes, n, "PuOr", (-top, top), told)
    counts = pd.DataFrame(second - first, columns=[f"{name} (change)" for name in classes])
    counts.insert(0, "true", list(classes))
    counts.insert(1, "n", n)
    return _finished(ax, finding, "confusion_difference", counts)


@_styled()
def recall_intervals(table: pd.DataFrame) -> Axes:
    """Recall by class and arm with intervals: columns class, arm, value, low, high, n.

    Parameters
    ----------
    table : class, arm, value, low, high, n

    Returns
    -------
    Axes
    """
    classes, arms = list(dict.fromkeys(table["class"])), list(dict.fromkeys(table["arm"]))
    wide = table.pivot(index="class", columns="arm", values="value").loc[classes, arms].astype(float)
    spans = (wide.max(axis=1) - wide.min(axis=1)).dropna()
    finding = "No recall can be compared"
    if len(spans):
        (name, *others), _ = _alike(spans, max, _rounded)
        (low, worst), *_, (high, best) = sorted((float(wide.loc[name, arm]), arm) for arm in arms)
        finding = f"Recall differs most for {name}: {_rounded(high)} with {best}, {_rounded(low)} with {worst}"
        finding += f"; just as much for {_listed(others)}" if others else ""
    _, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.22 * len(classes) * (len(arms) + 0.8)))
    step = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        rows = table[table["arm"] == arm]
        y = np.array([classes.index(name) for name in rows["class"]]) + (place - (len(arms) - 1) / 2) * step
        colour = ARM_COLOURS[place % len(ARM_COLOURS)]
        ax.hlines(y, rows["low"], rows["high"], color=colour, linewidth=2.5)
        ax.plot(rows["value"], y, "oDs^vP"[place % 6], color=colour, markersize=6, linestyle="none", label=arm)
    counts = table.drop_duplicates("class").set_index("class")["n"]
    _rows(ax, [f"{name} ({counts[name]:,})" for name in classes], "recall (95 % interval over images)")
    ax.xaxis.set_major_formatter(_percent_tick)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(arms), 2), frameon=False, borderaxespad=0.2)
    return _finished(ax, finding, "recall_intervals", table)


# -- a sweep


@_styled()
def best_so_far(scores: Sequence[float | None], metric: str) -> Axes:
    """Each trial's score by number, and the best one until then.

    Parameters
    ----------
    scores : of trial 0, 1 …; None: given up or failed
    metric : what the score is, as "validation_accuracy"; of a loss the lower is better

    Returns
    -------
    Axes
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 3.2))
    values, extreme = np.array(scores, dtype=float), min if metric.endswith("loss") else max
    finding = "No trial was trained to its end"
    if len(known := np.flatnonzero(np.isfinite(values))):
        top, score = _alike({str(n): values[n] for n in known}, extreme, partial(_value, metric=metric))
        named = f"Trial {top[0]} is" if len(top) == 1 else f"Trials {_listed(top)} are"
        finding = f"{named} the best of {len(values)}: {metric.replace('_', ' ')} {score}"
        best = (np.fmin if extreme is min else np.fmax).accumulate(values)
        ax.plot(best, drawstyle="steps-post", color=VALIDATION, label="best so far")
        ax.plot(known, values[known], "o", color=ARM_COLOURS[1], label="trained to the end")
    without = np.flatnonzero(~np.isfinite(values))
    if len(without):
        at = ax.get_xaxis_transform()
        ax.plot(without, np.full(len(without), 0.02), "x", color=GREY, transform=at, label="given up or failed")
    ax.set(xlabel="trial", xlim=(-0.5, len(values) - 0.5))
    _metric_axis(ax, metric)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
    return _finished(ax, finding)


@_styled()
def trial_curves(curves: Sequence[Mapping[int, float]], pruned: Sequence[bool], best: int | None, metric: str) -> Axes:
    """Each trial's score by epoch; those given up end in a cross, the best is thick.

    Parameters
    ----------
    curves : epoch to score, a trial each
    pruned : whether the trial was given up
    best : the best trial's number; None: none was trained to its end
    metric : what the score is

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.4))
    epochs = max(map(len, curves), default=0)
    saved = sum(epochs - len(curve) for curve, early in zip(curves, pruned, strict=True) if early)
    finding = f"{sum(pruned)} of {len(curves)} trials were given up early"
    finding += f", which saved {saved} of {len(curves) * epochs} epochs" if any(pruned) else ""
    for place, (curve, given_up) in enumerate(zip(curves, pruned, strict=True)):
        x, y = list(curve), list(curve.values())
        colour, width = (VALIDATION, 2.4) if place == best else (GREY if given_up else ARM_COLOURS[1], 1.0)
        marker = "o" if len(x) < FEW_EPOCHS else None
        ax.plot(x, y, color=colour, linewidth=width, marker=marker, markersize=3, zorder=3 if place == best else 2)
        if given_up and x:
            ax.plot(x[-1], y[-1], "x", color=GREY, markersize=7)
    ax.set_xlabel("epoch")
    _metric_axis(ax, metric)
    _epochs(ax)
    if best is not None and curves[best]:
        _end_labels(ax, [(list(curves[best].values())[-1], f"trial {best}", VALIDATION)])
    return _finished(ax, finding)


@_styled()
def importances(shares: Mapping[str, float]) -> Axes:
    """A bar a parameter, its share of the importance.

    Parameters
    ----------
    shares : by parameter, all adding up to 1

    Returns
    -------
    Axes
    """
    _, ax = plt.subplots(figsize=(WIDTH, 1.0 + 0.4 * len(shares)))
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    most, highest = _alike(shares, max, _rounded)
    word = "matters" if len(most) == 1 else "matter"
    for y, (_, share) in enumerate(ranked):
        ax.barh(y, share, color=ARM_COLOURS[0], height=0.6)
        ax.text(share + 0.015, y, _rounded(share), va="center")
    _rows(ax, [name for name, _ in ranked], "share of the importance")
    ax.set_xlim(0, 1.1)
    ax.xaxis.set_major_formatter(_percent_tick)
    return _finished(ax, f"{_listed(most)} {word} most for reaching the best quarter ({highest})")


@_styled()
def parallel_coordinates(
    table: pd.DataFrame, scores: Sequence[float | None], best: int | None, logs: Sequence[str], metric: str
) -> Axes:
    """A line a trial through its parameters' values to its score; grey and broken off where it was given up.

    Parameters
    ----------
    table : a row a trial, a column a parameter; columns of other than numbers are set out by their values
    scores : a trial each; None: given up or failed
    best : the best trial's row
    logs : the columns that are drawn by logarithm
    metric : what the score is

    Returns
    -------
    Axes
    """
    values = np.array(scores, dtype=float)
    _, ax = plt.subplots(figsize=(WIDTH, 3.8))
    columns = [_unit_axis(table[name], name in logs) for name in table.columns]
    columns.append(_unit_axis(pd.Series(values), False, partial(_value, metric=metric)))
    places = np.stack([heights for heights, _ in columns], axis=1)  # (trials, parameters + 1), 0 to 1
    spread = columns[-1][0]
    good = np.nan_to_num(1 - spread if metric.endswith("loss") else spread)
    colours = plt.get_cmap("viridis_r")(0.15 + 0.85 * good)  # its palest yellow would be lost on white
    for row, heights in enumerate(places):
        known = bool(np.isfinite(values[row]))
        colour, width = (colours[row], 3.0 if row == best else 1.4) if known else (GREY, 0.8)
        ax.plot(heights, "-" if known else ":", color=colour, linewidth=width, zorder=4 if row == best else 2)
    for x, (_, ticks) in enumerate(columns):
        ax.axvline(x, color=GREY, linewidth=1)
        for height, text in ticks:
            ax.text(x + 0.02, height, text, fontsize=8.5, va="center", zorder=5, bbox=LABEL_BOX)
    finding = "No trial was trained to its end"
    if best is not None:
        stated = ", ".join(f"{name} {_plain(table[name].iloc[best])}" for name in table.columns)
        finding = f"The best trial has {stated}"
    names = ["\n".join(textwrap.wrap(name.replace("_", " "), 14)) for name in (*table.columns, metric)]
    ax.set(xticks=range(len(names)), xticklabels=names, yticks=[], ylim=(-0.05, 1.05), xlim=(-0.1, len(names) - 0.75))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return _finished(ax, finding)


def _unit_axis(
    column: pd.Series, log: bool, text: Callable[[float], str] | None = None
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Values as heights from 0 to 1, and the ticks (height, text) beside the axis."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        words, places = np.unique([_plain(value) for value in column], return_inverse=True)
        top = max(len(words) - 1, 1)
        return places / top, [(i / top, str(word)) for i, word in enumerate(words)]
    values = column.to_numpy(dtype=float)
    scaled = np.log(values) if log else values
    finite = scaled[np.isfinite(scaled)]
    if not len(finite):
        return np.full(len(values), np.nan), []
    low, span = float(finite.min()), float(np.ptp(finite)) or 1.0
    shown = [low + span * share for share in ((0, 0.5, 1) if np.ptp(finite) else (0,))]
    ticks = [((at - low) / span, (text or _plain)(float(np.exp(at) if log else at))) for at in shown]
    return (scaled - low) / span, ticks


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# -- what the figures are drawn with


def _figure(axes: Axes | np.ndarray) -> Figure:
    return np.ravel(np.asarray(axes, dtype=object))[0].get_figure(root=True)


def _finished(axes: Drawn, finding: str, name: str = "", plotted: pd.DataFrame | None = None) -> Drawn:
    """Give the figure its title and leave with it what it was drawn from, for `show` to put beside the page."""
    figure = _figure(axes)
    vars(figure)["plotted"] = (name, plotted)
    # Left-aligned over the whole figure: long labels beside the axes would push an axes' own title out of it.
    if finding:
        wrap = partial(textwrap.wrap, finding, break_on_hyphens=False)
        width = TITLE_LETTERS
        count = len(wrap(width))
        while width > 20 and len(wrap(width - 1)) == count:
            width -= 1  # lines of about the same length: no single word on the last one
        figure.suptitle("\n".join(wrap(width)), x=0.012, ha="left")
    return axes


def _percent_tick(share: float, _: float | None = None) -> str:
    return f"{_points_tick(share)}\u00a0%"


def _count_tick(count: float, _: float | None = None) -> str:
    return f"{count:,g}"


def _points_tick(share: float, _: float | None = None) -> str:
    return _minus(f"{round(share * 100, 6):g}")


def _signed(value: float, digits: int) -> str:
    return _minus(f"{round(value, digits) + 0.0:+.{digits}f}")  # adding 0 leaves no minus to what is rounded to none


def _arms(names: Sequence[str]) -> str:
    """Names of arms after "with", which one that begins so itself needs marks to stand behind."""
    return _listed([f"“{name}”" if name.startswith("with") else name for name in names])


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def _unit(metric: str) -> str:
    return "nats" if metric in ("train_loss", "validation_loss") else unit(metric)


def _value(value: float | None, metric: str) -> str:
    """A number with its metric's unit: "%", "points" (of percent) or "nats"."""
    kind = _unit(metric)
    if value is None or not np.isfinite(value) or kind == "%":
        return percent(value)
    return f"{value:.3f}" if kind == "nats" else f"{_minus(f'{value * 100:.1f}')}\u00a0points"


def _rounded(share: float) -> str:
    return percent(share, 0)


def _ticks(axis: Axis, metric: str) -> None:
    if (kind := _unit(metric)) != "nats":
        axis.set_major_formatter(_percent_tick if kind == "%" else _points_tick)


def _metric_axis(ax: Axes, metric: str) -> None:
    kind = _unit(metric)
    ax.set_ylabel(metric.replace("_", " ") + f" ({kind})" * (kind != "%"))
    _ticks(ax.yaxis, metric)


def _alike(
    values: Mapping[str, float] | pd.Series, extreme: Callable[..., Any], text: Callable[[float], str]
) -> tuple[list[str], str]:
    """All who hold the highest (max) or lowest (min) value as it reads at the digits shown, and that reading."""
    known = {str(name): float(value) for name, value in dict(values).items()}
    shown = text(extreme(known.values(), default=np.nan))
    return [name for name, value in known.items() if text(value) == shown], shown


def _listed(names: Sequence[str], most: int = 3) -> str:
    """ "a", "a and b", "a, b and c", of more than `most` "a, b and 3 others"."""
    told = list(names) if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} others"]
    return listed(told)


def _extremes(
    values: Mapping[str, float], text: Callable[[float], str], named: Callable[[list[str]], str] = _listed
) -> list[tuple[str, str]]:
    """The highest value and the lowest, in text, each after the names of all who hold it."""
    return [(named(names), shown) for names, shown in (_alike(values, extreme, text) for extreme in (max, min))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _curves(
    ax: Axes,
    history: pd.DataFrame,
    others: Sequence[pd.DataFrame],
    lines: Mapping[str, tuple[str, str, str]],
    selected_epoch: int | None,
    rule: str,
) -> None:
    """Columns (label, colour, style) by epoch, all seeds as a band with their mean; the kept epoch marked."""
    ends = []
    for column, (label, colour, style) in lines.items():
        if others:  # all seeds, this one too, as far as each of them got
            seeds = _side_by_side((history, *others), column)
            low, high, mean = seeds.min(axis=1), seeds.max(axis=1), seeds.mean(axis=1)
            ax.fill_between(seeds.index, low, high, color=colour, alpha=0.2, linewidth=0)
            ax.plot(seeds.index, mean, ":", color=colour, linewidth=1.2)
        values = history[column].to_numpy(dtype=float)
        ax.plot(history["epoch"], values, style, color=colour, marker="o" if len(history) < FEW_EPOCHS else None)
        if np.isfinite(values).any():
            ends.append((float(values[np.isfinite(values)][-1]), label, colour))
    _epochs(ax)
    _end_labels(ax, ends)
    if selected_epoch is not None:
        ax.axvline(selected_epoch, color=INK, linestyle="--", linewidth=1)
        side = "right" if selected_epoch > history["epoch"].mean() else "left"
        text = f"epoch {selected_epoch} kept" + (f" ({KEPT_BY.get(rule, rule)})" if rule else "")
        ax.text(selected_epoch, 1.01, text, transform=ax.get_xaxis_transform(), ha=side, va="bottom")


def _side_by_side(histories: Iterable[pd.DataFrame], column: str) -> pd.DataFrame:
    """A column of every run that has an epoch: a row an epoch, a column a run."""
    runs = [history.set_index("epoch")[column].astype(float) for history in histories if len(history)]
    return pd.concat(runs or [pd.Series(dtype=float)], axis=1)


def _epochs(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if ax.dataLim.width <= 0 or not np.isfinite(ax.dataLim.width):  # one epoch, or none
        ax.set_xlim(0, 2)


def _epoch_label(others: Sequence[pd.DataFrame]) -> str:
    return f"epoch (band: range over {len(others) + 1} seeds, dotted: their mean)" if others else "epoch"


def _seeds_table(history: pd.DataFrame, others: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """run (1 is the one in detail), epoch and `columns` of all seeds, one below the other."""
    return pd.concat([h[["epoch", *columns]].assign(run=n) for n, h in enumerate((history, *others), 1)])[
        ["run", "epoch", *columns]
    ]


def _rate(ax: Axes, history: pd.DataFrame) -> None:
    rates = history["learning_rate"].to_numpy(dtype=float)
    marker = "o" if len(history) < FEW_EPOCHS else None
    ax.plot(history["epoch"], rates, color=INK, linewidth=1.5, drawstyle="steps-mid", marker=marker)
    top = float(rates[np.isfinite(rates)].max(initial=0))
    ax.set(ylim=(0, top * 1.15 or 1), ylabel="learning\nrate")
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    _epochs(ax)


def _end_labels(
    ax: Axes, ends: Sequence[tuple[float, str, str]], kinds: Mapping[str, tuple[Any, str]] | None = None
) -> None:
    """Names (y, text, colour) beside the lines' right ends, moved apart where they would overlap.

    Where `kinds`, by text, are of more than one line style and marker, a piece of the line stands before its name.
    """
    low, high = ax.get_ylim()
    gap = (high - low) * 13 / (_figure(ax).get_figheight() * 72 * 0.6)  # about a line of text, in data units
    ends = sorted(ends)
    places: list[float] = []
    for y, _, _ in ends:
        places.append(max(min(y, high), places[-1] + gap if places else low))
    for i in range(len(places) - 1, -1, -1):  # what was pushed out at the top comes back, and pushes downwards
        places[i] = min(places[i], places[i + 1] - gap if i + 1 < len(places) else high)
    for place, (_, text, colour) in zip(places, ends, strict=True):
        at, x = ax.get_yaxis_transform(), 1.015
        if kinds and len(set(kinds.values())) > 1:
            style, marker = kinds[text]
            piece = Line2D((x, x + 0.045, x + 0.09), [place] * 3, linestyle=style, marker=marker, markevery=[1])
            piece.set(color=colour, linewidth=2.2, transform=at, clip_on=False)
            ax.add_artist(piece)  # not `plot`, which would stretch the axis to where the names were moved
            x += 0.105
        ax.text(x, place, text, transform=at, color=colour, va="center", fontweight="bold", fontsize=9.5)


def _dot_rows(groups: Mapping[str, np.ndarray], metric: str) -> Axes:
    """A row a group: its values as dots, their mean with its 95 % interval, and how many runs have no value."""
    _, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.5 * len(groups)))
    intervals = False
    for y, values in enumerate(groups.values()):
        colour, kept = ARM_COLOURS[y % len(ARM_COLOURS)], values[np.isfinite(values)]
        mean, low, high, n = arm_interval(values, metric)
        text = f"{_value(mean, metric)} (n = {n})" if len(values) > 1 else _value(mean, metric)
        if len(values) > 1:
            # Equal values (at chance is 0 or 1) are stacked by order, not at random: the same picture each time.
            stack = [min(0.05 * int((kept[:i] == value).sum()), 0.25) for i, value in enumerate(kept)]
            ax.plot(kept, y + 0.2 + np.array(stack), "o", color=colour, alpha=0.6, markersize=4, markeredgewidth=0)
            text += f"\n{len(values) - n} without value" if n < len(values) else ""
        if low is not None and high is not None:
            # A mean of two or three values has an interval wider than what shares can be: what can be is drawn.
            ends = np.clip([low, high], *POSSIBLE.get(unit(metric), (-np.inf, np.inf)))
            ax.plot(ends, [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
            intervals = True
        ax.plot(np.nan if mean is None else mean, y, "D" if len(values) > 1 else "o", color=colour, markersize=6)
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=colour)
    told = "\n(dots: runs, ◆: mean" + ", line: its 95 % interval" * intervals + ")"
    several = any(len(values) > 1 for values in groups.values())
    _rows(ax, list(groups), words(metric) + f", {unit(metric)}" * (unit(metric) != "%") + told * several)
    if ax.dataLim.width <= 0 and np.isfinite(ax.dataLim.x0):  # one value, or equal ones, have no scale but zero
        low, high = sorted((0.0, ax.dataLim.x0))
        room = 0.15 * ((high - low) or 0.1)
        limits = low - room * (low < 0), high + room * (high > 0 or low == 0)
        ax.set_xlim((0, 1) if unit(metric) == "%" else limits)
    _ticks(ax.xaxis, metric)
    return ax


def _rows(ax: Axes, names: Sequence[str], xlabel: str) -> None:
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.5), xlabel=xlabel)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.grid(axis="x")


def _bars(
    table: pd.DataFrame, shares: bool = False, n: pd.Series | None = None, rings: pd.DataFrame | None = None
) -> np.ndarray:
    """Small multiples: a panel a column, a bar a class in its colour with its value beside it, a ring at another."""
    classes = [str(name) for name in table.index]
    colours, labels = list(palette(classes).values()), _short_names(classes)
    if n is not None:
        labels = [f"{label} ({count:,.0f})" for label, count in zip(labels, n, strict=True)]
    figure, axes = plt.subplots(1, table.shape[1], figsize=(WIDTH, 0.9 + 0.31 * len(table)), sharey=True, squeeze=False)
    figure.set_gid(AS_DRAWN)  # turned for a dark page, sad would take the blue of surprise
    for ax, column in zip(axes[0], table.columns, strict=True):
        values = table[column].to_numpy(dtype=float)
        lengths = np.nan_to_num(values)
        top = 1.0 if shares else max(float(lengths.max()), 1.0)
        ax.barh(range(len(values)), lengths, color=colours, height=0.72, edgecolor=INK, linewidth=0.6)
        if rings is not None:
            ring = rings[column].to_numpy(dtype=float)
            ax.plot(ring, range(len(ring)), "o", color=INK, markerfacecolor="white", markersize=4, markeredgewidth=0.8)
            lengths = np.maximum(lengths, np.nan_to_num(ring) + top * 0.03)  # the value stands clear of it
        for y, (value, length) in enumerate(zip(values, lengths, strict=True)):
            text = _rounded(value) if shares or not np.isfinite(value) else f"{value:,.0f}"
            ax.text(length + top * 0.04, y, text, va="center", fontsize=9.5)
        ax.set(title=str(column), xlim=(0, top * 1.4), xticks=[], yticks=range(len(values)), yticklabels=labels)
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(length=0)
    axes[0, 0].invert_yaxis()
    return axes[0]
