"""Figures: titles state what the data say, colours are the house's, faces are marked, the caller's settings stay."""

import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fer_core import evaluation, plots
from fer_core.schema import EMOTIONS


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def history(loss=(1.8, 1.4, 1.6), accuracy=(0.3, 0.5, 0.45)):
    n = len(loss)
    columns = {"train_loss": np.linspace(2, 1, n), "train_accuracy": np.linspace(0.3, 0.6, n), "gradient_norm": 1.0}
    columns |= {"train_clean_accuracy": np.nan, "validation_loss": loss, "validation_accuracy": accuracy}
    return pd.DataFrame({"epoch": range(1, n + 1), "learning_rate": 0.01} | columns)


def metrics():
    p = np.array([[0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    return evaluation.metrics(p, [0, 0, 1, 1], ("happy", "disgust"))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def faces(n):
    return np.random.default_rng(0).integers(0, 256, (n, 48, 48), dtype=np.uint8)


@pytest.fixture
def shown(monkeypatch):
    """What `show` hands to the page: a list of (data, metadata)."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: outputs.append((data, metadata)))
    return outputs


# -- colours and settings


def test_emotion_keeps_its_colour_whatever_stands_beside_it():
    assert plots.palette(EMOTIONS)["disgust"] == plots.palette(["disgust"])["disgust"] == "#009E73"


def test_other_classes_take_colours_that_no_shown_emotion_has():
    found = plots.palette(["happy", "contempt", "boredom"])
    assert len(set(found.values())) == 3


def test_more_classes_than_colours_still_have_one_each():
    assert len(plots.palette([f"class {i}" for i in range(20)])) == 20


def test_callers_settings_stay_as_they_were():
    before = dict(mpl.rcParams)
    plots.loss_curves(history(), 2)
    assert dict(mpl.rcParams) == before


def test_no_letter_is_smaller_than_nine_points():
    matrix = np.array([[5, 1], [2, 3]])
    tested = [
        plots.confusion_matrix(matrix, ["happy", "sad"]),
        plots.class_bars(metrics())[0],
        plots.loss_curves(history(), 2)[0],
    ]
    tested.append(plots.images_grid(faces(8), ["fear"] * 8)[0])
    for axes in tested:
        found = axes.get_figure().findobj(mpl.text.Text)
        assert min(text.get_fontsize() for text in found if text.get_text()) >= 9


# -- what goes into the page


def test_shown_figure_carries_alt_text_and_source_and_is_closed(shown):
    table = pd.DataFrame({"arm": ["a", "b"], "seed": [0, 0], "value": [0.25, 0.5]})
    axes = plots.arm_values(table, "gap")
    plots.show(axes, "The gaps.", "metrics.json: gap")
    (data, metadata) = shown[0]
    assert metadata == {
        "image/png": {"alt": f"The gaps. {plots.title(axes)}.", "source": "metrics.json: gap", "lead": "The gaps."},
        "fer": {"faces": False, "data": {"name": "arms_gap", "csv": "arm,seed,value\na,0,0.25\nb,0,0.5\n"}},
    }
    assert data["text/plain"] == metadata["image/png"]["alt"]
    assert plt.get_fignums() == []


def test_same_figure_has_the_same_bytes_without_date_or_version(shown):
    for _ in range(2):
        plots.show(plots.loss_curves(history(), 2), "", "")
    assert shown[0][0]["image/png"] == shown[1][0]["image/png"]
    assert set(Image.open(io.BytesIO(shown[0][0]["image/png"])).info) <= {"dpi"}


def test_figure_fits_a_column(shown):
    plots.show(plots.confusion_matrix(np.eye(7, dtype=int), EMOTIONS), "", "")
    assert Image.open(io.BytesIO(shown[0][0]["image/png"])).width <= 770


def test_what_must_not_be_turned_for_a_dark_page_is_marked(shown):
    plots.show(plots.images_grid(faces(2), ["fear", "sad"]), "", "")
    plots.show(plots.class_counts(pd.DataFrame({"train": [3, 4]}, index=["sad", "surprise"])), "", "")
    plots.show(plots.loss_curves(history()), "", "")
    assert [metadata["image/png"].get("as_drawn", False) for _, metadata in shown] == [True, True, False]


def test_single_faces_are_marked_in_a_figure_of_ones_own_too(shown):
    plots.show(plots.images_grid(faces(2), ["fear", "sad"]), "", "")
    plots.show(plots.augmentation_grid(faces(1)[0], faces(3)), "", "")
    ax = plt.figure().subplots()
    ax.imshow(faces(1)[0])
    plots.show(ax, "A face that I looked at.", "the data: pixels")
    assert shown[-1][1]["image/png"]["alt"] == "A face that I looked at."
    hidden = plt.figure().subplots()
    hidden.inset_axes((0.5, 0.5, 0.5, 0.5)).imshow(faces(1)[0])
    plots.show(hidden, "", "")
    mesh = plt.figure().subplots()
    mesh.pcolormesh(faces(1)[0])
    plots.show(mesh, "", "")
    assert [metadata["fer"]["faces"] for _, metadata in shown] == [True] * 5
    inset = plots.confusion_matrix(np.eye(7, dtype=int), EMOTIONS)
    inset.inset_axes((0.5, 0.5, 0.5, 0.5)).imshow(faces(1)[0])
    plots.show(inset, "", "")
    assert shown.pop()[1]["fer"]["faces"]
    means = plt.figure().subplots()
    means.imshow(faces(1)[0])
    means.get_figure().set_gid(plots.NO_FACES)
    plots.show(means, "", "")
    plots.show(plots.confusion_matrix(np.array([[3]]), ["happy"]), "", "")
    assert [metadata["fer"]["faces"] for _, metadata in shown[5:]] == [False, False]


@pytest.mark.parametrize(("counts", "marked"), [((500, 40), False), ((500, 2), True), ((500, 0), False)])
def test_mean_of_few_faces_is_marked_as_a_face(shown, counts, marked):
    plots.show(plots.mean_faces(faces(2).astype(float), ["happy", "disgust"], counts), "", "")
    assert shown[0][1]["fer"]["faces"] is marked


# -- findings


def test_loss_title_names_lowest_epoch_and_end():
    axes = plots.loss_curves(history(), 2)
    assert plots.title(axes) == "Validation loss is lowest at epoch 2 (1.400) and ends at 1.600"


def test_loss_title_says_where_numbers_stop():
    axes = plots.loss_curves(history((1.8, np.nan, np.nan)), 1)
    assert plots.title(axes) == "Validation loss is lowest at epoch 1 (1.800) and not a number from epoch 2 on"


def test_selected_epoch_is_a_dashed_line_with_its_name():
    upper, lower = plots.loss_curves(history(), 2)
    dashed = [line for line in upper.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata()[0] for line in dashed] == [2]
    assert "epoch 2 kept" in texts(upper)
    assert lower.get_xlim() == upper.get_xlim()


def test_lines_are_labelled_directly():
    upper, _ = plots.loss_curves(history())
    assert {"train", "validation"} <= set(texts(upper))
    assert upper.get_legend() is None


def test_band_spans_all_seeds_and_a_dotted_line_is_their_mean():
    alone, _ = plots.loss_curves(history())
    upper, lower = plots.loss_curves(history(), others=[history((1.5, 1.2, 1.3)), history((2.1, 1.9), (0.3, 0.4))])
    assert not alone.collections and "3 seeds" in lower.get_xlabel()
    _, band = upper.collections  # training, validation
    corners = band.get_paths()[0].vertices
    assert [(low, high) for x in (1, 2, 3) for low, high in [_ends(corners, x)]] == [(1.5, 2.1), (1.2, 1.9), (1.3, 1.6)]
    mean = [line for line in upper.lines if line.get_linestyle() == ":"][1]
    assert mean.get_ydata() == pytest.approx([1.8, 1.5, 1.45])


def _ends(corners, x):
    at = [y for found, y in corners if found == x]
    return min(at), max(at)


def test_kept_epoch_says_by_which_rule():
    assert "epoch 2 kept (best on validation)" in texts(
        plots.loss_curves(history(), 2, (), "best_validation_accuracy")[0]
    )
    assert "epoch 3 kept (the last)" in texts(plots.accuracy_curves(history(), 3, (), "last"))


def test_reliability_shows_what_a_temperature_mends():
    sure = np.tile([0.99, 0.01], (200, 1))
    labels = np.repeat([0, 1], [140, 60])
    temperature = evaluation.fit_temperature(sure, labels)
    after = evaluation.calibration(evaluation.with_temperature(sure, temperature), labels)
    axes = plots.reliability(evaluation.calibration(sure, labels), after, temperature, "validation images")
    expected = f"Overconfident by 29.0 points on average (ECE 29.0 %; 0.0 % at temperature {temperature:.2f})"
    assert plots.title(axes).replace("\u00a0", " ") == expected
    told = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert told == [
        "perfectly calibrated",
        "as trained",
        f"at temperature {temperature:.2f}, fitted on validation images",
    ]


def reliability(p, labels):
    table = evaluation.calibration(p, labels)
    return plots.reliability(table, table, 1.0, "validation images")


def test_reliability_draws_no_bin_of_a_few_images_and_says_so():
    p = np.repeat([[0.9, 0.1], [0.6, 0.4]], [100, 1], axis=0)
    upper, lower = reliability(p, [0] * 101)
    assert upper.lines[1].get_xdata() == pytest.approx([0.9])
    assert upper.get_ylabel() == "accuracy (bins of\n10 images or more)"
    assert sum(bar.get_height() for bar in lower.containers[0]) == 101
    whole, _ = reliability(p[:100], [0] * 100)
    assert whole.get_ylabel() == "accuracy"


def test_legend_of_reliability_covers_no_curve():
    p = np.random.default_rng(0).dirichlet([1, 1], 500)
    upper, _ = reliability(p, [0] * 500)
    upper.get_figure().canvas.draw()
    assert upper.get_legend().get_window_extent().y0 >= upper.get_window_extent().y1


def test_attention_draws_no_mean_of_too_few_faces(shown):
    means, heat = np.full((2, 2, 8, 8), 99.0), np.random.default_rng(0).random((2, 2, 8, 8))
    axes = plots.attention(means, heat, np.array([[50, 22], [21, plots.ENOUGH_FACES - 1]]), ["happy", "sad"])
    assert [len(ax.images) for ax in axes.flat] == [2, 2, 2, 0]
    assert texts(axes[1, 1]) == ["too few"]
    assert plots.title(axes).startswith(
        "Right and wrong answers for happy, the one class to compare, draw on like places"
    )
    assert (
        "most decisive" in plots._figure(axes).get_supxlabel() and "at most 50" in plots._figure(axes).get_supxlabel()
    )
    plots.show(axes, "", "")
    assert shown[0][1]["fer"]["faces"] is False


def test_figure_hands_on_just_what_it_plots(shown):
    plots.show(plots.confusion_matrix(np.array([[6, 2], [1, 3]]), ["happy", "sad"]), "", "")
    plots.show(plots.loss_curves(history(), 2, [history((9.0, 8.0, 7.0))]), "", "")
    matrix, curves = (metadata["fer"]["data"] for _, metadata in shown)
    assert matrix == {"name": "confusion_matrix", "csv": "true,predicted happy,predicted sad\nhappy,6,2\nsad,1,3\n"}
    table = pd.read_csv(io.StringIO(curves["csv"]))
    assert list(table.columns) == ["run", "epoch", "learning_rate", "train_loss", "validation_loss"]
    assert table["validation_loss"].tolist() == [1.8, 1.4, 1.6, 9.0, 8.0, 7.0]


def test_what_stands_in_for_faces_travels_with_their_figure(shown):
    rows = {"columns": ["image_id", "true"], "rows": [["ab", "fear"], ["cd", "sad"]], "means": {}, "size": [48, 48]}
    plots.show(plots.images_grid(faces(2), ["fear", "sad"], finding="Two"), "", "", stand_in=rows)
    fer = shown[0][1]["fer"]
    assert fer["faces"] is True and fer["stand_in"] == {**rows, "line": "Two"}
    assert fer["data"] == {"name": "faces", "csv": "image_id,true\nab,fear\ncd,sad\n"}


def test_loss_that_went_astray_does_not_flatten_the_others():
    upper, _ = plots.loss_curves(history((900.0, 1.5, 1.4)))
    assert upper.get_ylim()[1] < 10
    assert "cut at" in upper.get_ylabel()


@pytest.mark.parametrize("draw", [plots.loss_curves, plots.accuracy_curves])
def test_history_without_epochs_still_draws(draw):
    axes = draw(history().head(0))
    np.ravel(axes)[0].get_figure().canvas.draw()
    assert plots.title(axes).startswith("No epoch")


def test_a_run_that_diverged_within_its_first_epoch_still_draws():
    nothing = history().head(1).astype(float).assign(**dict.fromkeys(set(history()) - {"epoch"}, np.nan))
    for draw in (plots.loss_curves, plots.accuracy_curves):
        axes = draw(nothing)
        np.ravel(axes)[0].get_figure().canvas.draw()
        assert plots.title(axes).startswith("No epoch")


def test_accuracy_title_says_the_gap_at_the_selected_epoch():
    axes = plots.accuracy_curves(history(), 2)
    assert (
        plots.title(axes).replace("\u00a0", " ")
        == "Validation accuracy is 50.0 % at epoch 2, training 5.0 points below it"
    )


def test_confusion_cells_hold_share_and_count_and_the_title_the_commonest_mistake():
    axes = plots.confusion_matrix(np.array([[6, 2], [0, 0]]), ["happy", "disgust"])
    assert [text.replace("\u00a0", " ") for text in texts(axes)] == ["75 %\n6", "25 %\n2", "0 %\n0", "0 %\n0"]
    assert plots.title(axes).replace("\u00a0", " ") == "Happy is most often taken for disgust (25 % of 8)"


def test_faultless_confusion_matrix_says_so():
    assert plots.title(plots.confusion_matrix(np.eye(2, dtype=int), ["a", "b"])) == "No image was given a wrong label"


def test_class_bars_name_the_lowest_recall_and_draw_absent_classes():
    found = metrics()
    found["classes"]["fear"] = {"n": 0, "precision": None, "recall": None, "f1": None}
    axes = plots.class_bars(found)
    assert plots.title(axes).replace("\u00a0", " ") == "Disgust recall is lowest (50 %, n = 2)"
    assert "–" in texts(axes[1])
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes[0].patches] == ["#E69F00", "#009E73", "#CC79A7"]


def test_class_recalls_compare_the_last_arm_with_the_first():
    table = pd.DataFrame({"plain": [0.5, 0.5], "weighted": [0.75, 0.4]}, index=["disgust", "happy"])
    assert plots.title(plots.class_recalls(table)) == "Recall changes most for disgust: +25.0 points with weighted"


def test_reliability_title_says_over_or_underconfident():
    p = np.array([[0.9, 0.1]] * 4)
    assert plots.title(reliability(p, [0, 0, 1, 1])).startswith("Overconfident by 40.0 points")
    assert plots.title(reliability(p, [0] * 4)).startswith("Underconfident by 10.0 points")


def test_test_intervals_show_only_what_was_scored():
    axes = plots.test_intervals({"validation": metrics()})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["validation\n(n = 4)"]


def test_test_intervals_say_what_copies_make():
    official, leak_free = metrics(), metrics() | {"accuracy": 0.5}
    axes = plots.test_intervals({"validation": metrics(), "test_official": official, "test_leak_free": leak_free})
    assert plots.title(axes).endswith("test images with copies add 25.0\u00a0points")


@pytest.mark.parametrize(
    ("official", "leak_free", "told"),
    [
        (0.62468, 0.60916, "62.5 % official, 60.9 % leak-free: test images with copies add 1.6 points"),
        (0.6001, 0.61, "60.0 % official, 61.0 % leak-free: test images with copies cost 1.0 points"),
        (0.6001, 0.6004, "60.0 % official, 60.0 % leak-free: test images with copies make no difference"),
    ],
)
def test_what_copies_make_is_the_difference_of_the_printed_figures(official, leak_free, told):
    scored = {"test_official": official, "test_leak_free": leak_free}
    axes = plots.test_intervals({split: metrics() | {"accuracy": value} for split, value in scored.items()})
    assert plots.title(axes).replace("\u00a0", " ").endswith(told)


def test_published_figure_without_interval_is_hollow():
    table = pd.DataFrame(
        {"name": ["ours", "theirs"], "value": [0.7, 0.73], "low": [0.68, np.nan], "high": [0.72, np.nan]}
    )
    axes = plots.accuracies(table.assign(ours=[True, False]), "Theirs is higher")
    markers = [line for line in axes.lines if line.get_marker() == "o"]
    assert [to_hex(line.get_markerfacecolor()) for line in markers] == [plots.VALIDATION, "#ffffff"]


def test_class_counts_state_the_imbalance():
    counts = pd.DataFrame({"training": [6026, 371], "test": [9, 1]}, index=["happy", "disgust"])
    expected = "Happy has 16.2 times as many training images as disgust (6,026 against 371)"
    assert plots.title(plots.class_counts(counts)) == expected


def test_near_copies_are_stated_at_098():
    table = pd.DataFrame({"threshold": [0.9, 0.98], "n": [300, 41], "mirrored": [5, 0], "agreement": [0.8, np.nan]})
    assert plots.title(plots.near_copy_curve(table)) == "41 more test images have a near copy above 0.98"


def test_pixel_statistics_count_flat_images():
    axes = plots.pixel_statistics(np.full(20, 100.0), np.full(20, 50.0), 1)
    assert plots.title(axes).endswith("a mean grey of 100 to 100; 1 image has next to no contrast")


def test_colour_means_draw():
    plots.mean_faces(np.full((2, 8, 8, 3), 127.5), ["a", "b"], (50, 50))[0].get_figure().canvas.draw()


def test_arm_curves_name_highest_and_lowest_end():
    arms = {
        "plain": [history(), history()],
        "better": [history(accuracy=(0.3, 0.5, 0.625))],
        "none": [history().head(0)],
    }
    axes = plots.arm_curves(arms)
    expected = "Validation accuracy ends highest with better (62.5 %), lowest with plain (45.0 %)"
    assert plots.title(axes).replace("\u00a0", " ") == expected
    assert set(texts(axes)) == {"plain", "better"}


def test_end_labels_do_not_overlap():
    axes = plots.arm_curves({f"arm {i}": [history()] for i in range(5)})
    axes.get_figure().canvas.draw()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(boxes))


def test_arm_values_say_how_many_runs_have_no_value():
    table = pd.DataFrame({"arm": ["a", "a", "a", "b"], "seed": [0, 1, 2, 0], "value": [0.1, 0.2, np.nan, 0.05]})
    axes = plots.arm_values(table, "gap")
    found = [text.replace("\u00a0", " ") for text in texts(axes)]
    assert found == ["15.0 points (n = 2)\n1 without value", "5.0 points"]
    assert plots.title(axes).replace("\u00a0", " ") == "Gap is 15.0 points with a, 5.0 points with b"


def test_arm_values_without_any_value_say_so():
    table = pd.DataFrame({"arm": ["a"], "seed": [0], "value": [np.nan]})
    assert plots.title(plots.arm_values(table, "gap")) == "No run has a value of gap"


def test_claim_effects_count_verdicts_and_tell_them_apart_by_shape_too():
    rows = [
        ("A", 0.4, 0.1, 0.7, "supported"),
        ("B", -0.02, -0.03, -0.01, "not supported"),
        ("C", None, None, None, "inconclusive"),
    ]
    table = pd.DataFrame(rows, columns=["claim", "effect", "low", "high", "verdict"])
    told = ["40.0 % [10.0, 70.0]", "−2.0 points [−3.0, −1.0]", "no value"]
    others = [False, False, True]
    axes = plots.claim_effects(table.assign(told=told, threshold=[0.35, -0.01, np.nan], by_another=others))
    assert plots.title(axes) == "Of 3 claims 1 is supported, 1 is not supported, 1 is inconclusive"
    assert "not supported\n−2.0 points [−3.0, −1.0]" in texts(axes)
    assert "inconclusive *\nno value" in texts(axes)  # decided by another condition than the one drawn
    assert [line.get_marker() for line in axes.lines if line.get_marker() != "None"] == ["o", "D", "D"]
    ticks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) == 0]
    assert ticks[:2] == pytest.approx([0.35 / 0.7, -0.01 / 0.03])  # each threshold on its row's own scale


def test_an_arm_whose_name_begins_with_with_is_set_in_marks():
    table = pd.DataFrame({"arm": ["as published", "without copies"], "seed": [0, 0], "value": [0.015, 0.011]})
    told = plots.title(plots.arm_values(table, "gap")).replace("\u00a0", " ")
    assert told == "Gap is 1.5 points with as published, 1.1 points with “without copies”"


def test_a_confusion_title_names_no_cell_without_a_mistake():
    told = plots.title(plots.confusion_matrix(np.array([[3000, 1], [0, 3000]]), ["cat", "dog"]))
    assert told.replace("\u00a0", " ") == "Cat is most often taken for dog (0 % of 3,001)"


def test_class_bars_show_the_images_without_copies_beside_all():
    def metrics(recalls, n):
        classes = {name: {"n": n, "precision": 0.5, "recall": r, "f1": 0.5} for name, r in recalls.items()}
        return {"classes": classes}

    axes = plots.class_bars(metrics({"happy": 0.9, "disgust": 0.25}, 55), metrics({"happy": 0.8, "disgust": 0.125}, 38))
    told = plots.title(axes).replace("\u00a0", " ")
    assert told == "Disgust recall is lowest (25 %, n = 55; without copies 12 %, n = 38)"
    assert list(axes[1].lines[0].get_xdata()) == [0.8, 0.125]


# -- what a reader's eyes need


def luminance(colour):
    shares = np.array(mpl.colors.to_rgb(colour))
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dimmed", [1.0, 0.9])
def test_letters_in_cells_stand_out_on_every_shade_light_and_dimmed_for_a_dark_page(dimmed):
    shares = np.array([[n, 200 - n] for n in range(201)])
    for at in (*range(0, 200, 20), *range(100, 150, 4)):  # shades of middling lightness are the trouble
        matrix = shares[[at, at + 1]]
        for axes in (
            plots.confusion_matrix(matrix, ["a", "b"]),
            plots.confusion_difference(np.array([[200, 0], [0, 200]]), matrix, "ab", ("x", "y")),
        ):
            faces = axes.collections[0].get_facecolor()[:, :3] * dimmed
            letters = [np.array(mpl.colors.to_rgb(text.get_color())) * dimmed for text in axes.texts]
            assert min(map(contrast, faces, letters)) >= 4.5
            plt.close(axes.get_figure())


def test_cells_with_letters_stay_as_drawn_on_a_dark_page(shown):
    plots.show(plots.confusion_matrix(np.eye(2, dtype=int), ["a", "b"]), "", "")
    plots.show(plots.confusion_difference(np.eye(2, dtype=int), np.eye(2, dtype=int), "ab", ("x", "y")), "", "")
    assert [metadata["image/png"].get("as_drawn") for _, metadata in shown] == [True, True]


@pytest.mark.parametrize(
    ("recalls", "told"),
    [
        ((0.0, 0.0, 0.5), "2 of 3 classes have no recall at all: a and b"),
        ((0.251, 0.249, 0.5), "A and b recall is lowest (25 %)"),
        ((0.5, 0.5, 0.5), "Recall is 50 % for every class"),
    ],
)
def test_classes_alike_at_the_digits_shown_share_the_finding(recalls, told):
    table = {
        name: {"n": 4, "precision": 0.5, "recall": share, "f1": 0.5} for name, share in zip("abc", recalls, strict=True)
    }
    assert plots.title(plots.class_bars({"classes": table})).replace("\u00a0", " ") == told


def test_many_alike_are_counted_not_listed():
    table = pd.DataFrame({"arm": list("abcdef"), "seed": 0, "value": [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]})
    expected = "Share of runs at chance level is 100.0 % with f, 0.0 % with a, b and 3 others"
    assert plots.title(plots.arm_values(table, "at_chance")).replace("\u00a0", " ") == expected


def test_arms_that_end_alike_are_named_together():
    axes = plots.arm_curves({"a": [history()], "b": [history()]})
    assert plots.title(axes).replace("\u00a0", " ") == "Validation accuracy ends at 45.0 % with a and b"


def test_interval_of_a_share_ends_where_shares_end():
    table = pd.DataFrame({"arm": ["a", "a"], "seed": [0, 1], "value": [0.2, 0.9]})
    axes = plots.arm_values(table, "validation_accuracy")
    (interval,) = [line for line in axes.lines if line.get_marker() == "None"]
    assert list(interval.get_xdata()) == [0, 1]
    assert "line: its 95 % interval" in axes.get_xlabel()


@pytest.mark.parametrize(("value", "metric", "inside"), [(0.052, "gap", 0.0), (0.6, "validation_accuracy", 1.0)])
def test_single_value_has_a_scale_and_no_legend_of_what_is_not_drawn(value, metric, inside):
    axes = plots.arm_values(pd.DataFrame({"arm": ["a"], "seed": [0], "value": [value]}), metric)
    low, high = axes.get_xlim()
    assert low <= 0 < value < high and low <= inside <= high
    assert "◆" not in axes.get_xlabel()


def test_interval_is_not_hidden_by_its_dot():
    table = pd.DataFrame({"name": ["ours", "far"], "value": [0.76, 0.2], "low": [0.746, 0.19], "high": [0.774, 0.21]})
    axes = plots.accuracies(table, "")
    axes.get_figure().canvas.draw()
    span, dot = axes.lines[:2]
    ends = axes.transData.transform(np.column_stack([span.get_xdata(), span.get_ydata()]))[:, 0]
    assert np.ptp(ends) > dot.get_markersize() * plots.DPI / 72


def test_arms_of_another_line_style_show_a_piece_of_it_beside_their_name():
    axes = plots.arm_curves({f"arm {i}": [history(accuracy=(0.1, 0.2, 0.3 + i / 50))] for i in range(8)})
    pieces = [line for line in axes.lines if not line.get_clip_on()]
    assert sorted(piece.get_linestyle() for piece in pieces) == ["-"] * 6 + ["--"] * 2
    few = plots.arm_curves({"a": [history()], "b": [history()]})
    assert not [line for line in few.lines if not line.get_clip_on()]


def test_arms_with_the_same_curve_take_turns_along_it():
    axes = plots.arm_curves({"a": [history()], "b": [history()], "c": [history(accuracy=(0.1, 0.2, 0.3))]})
    patterns = [line._unscaled_dash_pattern for line in axes.lines if line.get_linewidth() > 2]
    assert patterns == [(0, (5, 5)), (5, (5, 5)), (0, None)]


def test_counts_on_axes_have_thousands_separators():
    lower = reliability(np.tile([0.9, 0.1], (5000, 1)), [0] * 5000)[1]
    lower.get_figure().canvas.draw()
    assert "5,000" in [label.get_text() for label in lower.get_yticklabels()]


def test_mistakes_made_alike_are_all_named():
    axes = plots.confusion_matrix(np.array([[1, 1], [2, 2]]), ["happy", "sad"])
    assert plots.title(axes).replace("\u00a0", " ") == "Most often mistaken (50 %): happy for sad and sad for happy"
