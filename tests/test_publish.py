"""The ledger: what is published, what another machine's runs are taken in by, and what reproducing one compares."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jinja2 import Environment, meta
from PIL import Image

from fer_core import artifacts, leaderboard, limits, publish, report, reproduce, schema, training
from fer_core.artifacts import Run, Settings, read_json, write_json
from fer_core.data import Faces
from fer_core.schema import ROOT, FerError, Params

from .conftest import make_faces

SMALL = Params(width=0.25, epochs=2, batch_size=32, learning_rate=0.005, threads=1, precision="float32")


@pytest.fixture(scope="module")
def faces() -> Faces:
    return make_faces()


@pytest.fixture(scope="module")
def trained(faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        run = training.train_or_load(SMALL, Settings(None, "sample", "cpu", out), faces)
        return training.score_test(run, faces)


def identity(run: Run) -> str:
    return str(run.provenance["identity"])


# -- the ledger


@pytest.fixture
def shelf(trained: Run, tmp_path: Path) -> Path:
    publish.export_run(trained, identity(trained), tmp_path / "runs", whole=True)
    return tmp_path / "runs"


def found_on(shelf: Path, faces: Faces, tmp_path: Path) -> Run:
    wanted = artifacts.run_key(SMALL, faces.data_hash, "cpu")
    run = artifacts.find_run(SMALL, wanted, tmp_path / "nothing", shelf)
    assert run is not None
    return run


def test_published_run_counts_as_done_with_the_same_metrics(
    trained: Run, faces: Faces, shelf: Path, tmp_path: Path
) -> None:
    run = found_on(shelf, faces, tmp_path)
    assert (run.key, run.foreign) == (trained.key, "")
    assert run.metrics == trained.metrics
    assert run.history.equals(trained.history)


def test_published_predictions_are_the_runs_in_half_precision_and_its_weights_stay_behind(
    trained: Run, faces: Faces, shelf: Path, tmp_path: Path
) -> None:
    run = found_on(shelf, faces, tmp_path)
    columns = [name for name in trained.predictions.columns if name.startswith("p_")]
    assert np.allclose(run.predictions[columns], trained.predictions[columns], atol=1e-3)
    assert list(run.predictions["image_id"]) == list(trained.predictions["image_id"])
    assert not (run.folder / "model.safetensors").exists()


def test_what_pages_work_out_from_weights_is_published_in_their_place(
    trained: Run, faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "runs"
    assert trained.derived("attention", ["test"], lambda: "a map") == "a map"
    publish.export_run(trained, identity(trained), shelf, whole=True)
    (trained.folder / "attention.json").unlink()
    run = found_on(shelf, faces, tmp_path)
    monkeypatch.setattr(artifacts, "code_fingerprint", lambda *_: "other code")
    assert run.derived("attention", ["test"], lambda: "never made") == "a map"
    for name, of in (("attention", ["validation"]), ("ensemble", [])):
        with pytest.raises(FerError, match=rf"without its weights, and {name}\.json is not of this: remove runs/"):
            run.derived(name, of, lambda: "never made")
    of_the_ledger = Run("k", SMALL, ROOT / "reports/published/fer2013/runs/none")
    with pytest.raises(FerError, match="FER_AFRESH=1 trains it here"):
        of_the_ledger.derived("attention", [], lambda: "never made")


def test_what_is_worked_out_from_weights_is_made_anew_where_it_follows_from_something_else(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained.derived("ensemble", [1], lambda: 0.1) == trained.derived("ensemble", [1], lambda: 0.2) == 0.1
    assert trained.derived("ensemble", [2], lambda: 0.2) == 0.2
    monkeypatch.setattr(artifacts, "code_fingerprint", lambda *_: "other code")
    assert trained.derived("ensemble", [2], lambda: 0.3) == 0.3
    (trained.folder / "ensemble.json").unlink()


def test_published_run_names_no_machine_and_keeps_the_hashes_of_what_was_trained(trained: Run, shelf: Path) -> None:
    record = read_json(shelf / identity(trained) / "run.json")
    assert "host" in trained.provenance
    assert "host" not in record
    assert record["sha256"] == reproduce.hashes(trained)


def test_further_seeds_are_published_without_predictions(trained: Run, tmp_path: Path) -> None:
    publish.export_run(trained, identity(trained), tmp_path, whole=False)
    names = {file.name for file in (tmp_path / identity(trained)).iterdir()}
    assert names == {"history.csv", "metrics.json", "network.csv", "run.json"}


def test_publishing_a_published_run_again_changes_no_byte(
    trained: Run, faces: Faces, shelf: Path, tmp_path: Path
) -> None:
    folder = shelf / identity(trained)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    publish.export_run(found_on(shelf, faces, tmp_path), identity(trained), shelf, whole=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"data": None}, "", "sample is not published"),
        ({"set_values": {"epochs": 2}}, "", "SET is not published"),
        ({}, " M fer_core/plots.py", "fer_core/plots.py and perhaps more is not committed"),
    ],
)
def test_publishing_is_refused(
    changes: dict[str, Any], status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "git", lambda *_: status)
    settings = dataclasses.replace(Settings(tmp_path, "fer2013", "cpu", tmp_path), **changes)
    with pytest.raises(FerError, match=words):
        publish.publish(settings)


def test_other_images_are_not_published_as_fer2013(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "git", lambda *words: "" if "status" in words else "c0ffee")
    monkeypatch.setattr(publish.build, "Plan", lambda *_: SimpleNamespace(fer2013=False))
    with pytest.raises(FerError, match=r"not FER2013's images.*NAME="):
        publish.publish(Settings(tmp_path, "fer2013", "cpu", tmp_path))


# -- from another machine


@pytest.fixture
def here(tmp_path: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(publish.build.data, "data_hash", lambda *_: faces.data_hash)
    return Settings(None, "sample", "cpu", tmp_path / "here")


def test_runs_of_another_out_are_taken_in_once(
    trained: Run, faces: Faces, here: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    source = trained.folder.parents[2]
    assert publish.import_runs(source, here) == 0
    wanted = artifacts.run_key(SMALL, faces.data_hash, "cpu")
    run = artifacts.find_run(SMALL, dataclasses.replace(wanted, device="cuda"), here.store)
    assert run is not None
    assert run.foreign == "device"
    assert run.predictions.equals(trained.predictions)
    publish.import_runs(source, here)
    assert "0 runs taken in, 1 were here already" in capsys.readouterr().out


def test_files_of_two_trainings_of_the_same_parameters_are_never_mixed(
    trained: Run, here: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several, the nearest to what is made here counts; what is nearer than what is here takes its place whole."""
    far, near = tmp_path / "there/far", tmp_path / "there/near"
    copy_of(trained, far, key="0-by-other-code", code="other")
    (far / "attention.json").write_text("{}")
    taken = here.store / "imported" / identity(trained)
    publish.import_runs(far, here)
    assert read_json(taken / "run.json")["code"] == "other" and (taken / "attention.json").exists()
    copy_of(trained, near)
    publish.import_runs(tmp_path / "there", here)
    assert read_json(taken / "run.json")["key"] == trained.key and not (taken / "attention.json").exists()
    publish.import_runs(far, here)
    assert "0 runs taken in" in capsys.readouterr().out and read_json(taken / "run.json")["key"] == trained.key


def test_a_training_that_takes_anothers_place_on_the_ledger_leaves_nothing_of_it(trained: Run, tmp_path: Path) -> None:
    shelf, name = tmp_path / "shelf", identity(trained)
    publish.export_run(trained, name, shelf, whole=True)
    (shelf / name / "attention.json").write_text("{}")
    other = copy_of(trained, tmp_path / "other")
    publish.export_run(Run("another-key", other.params, other.folder), name, shelf, whole=False)
    left = {file.name for file in (shelf / name).iterdir()}
    assert left == {"history.csv", "metrics.json", "network.csv", "run.json"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_hash": "other"}, "trained on other data"),
        ({"parameters": {"epochs": 3}}, "parameters do not match its identity"),
        ({"state": "cut"}, "not finished"),
        ({"code": None}, "not whole"),
    ],
)
def test_a_run_that_is_not_what_it_says_is_refused_by_name(
    trained: Run, here: Settings, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    copied = tmp_path / "there" / "runs" / "abc"
    shutil.copytree(trained.folder, copied)
    record = {**read_json(copied / "run.json"), **changes}
    write_json(copied / "run.json", {name: value for name, value in record.items() if value is not None})
    with pytest.raises(FerError, match=words):
        publish.import_runs(tmp_path / "there", here)
    assert not (here.store / "imported").exists()


def test_a_run_whose_history_is_broken_is_refused(trained: Run, here: Settings, tmp_path: Path) -> None:
    copied = tmp_path / "there" / "abc"
    shutil.copytree(trained.folder, copied)
    (copied / "history.csv").write_text("epoch\n1\n")
    with pytest.raises(FerError, match="lack columns"):
        publish.import_runs(tmp_path / "there", here)


def test_a_folder_without_runs_is_refused(here: Settings, tmp_path: Path) -> None:
    with pytest.raises(FerError, match="holds no runs"):
        publish.import_runs(tmp_path, here)


# -- reproducing


def copy_of(run: Run, folder: Path, **record: Any) -> Run:
    shutil.copytree(run.folder, folder)
    write_json(folder / "run.json", {**run.provenance, **record})
    return Run(run.key, run.params, folder)


def test_the_same_training_again_is_reproduced_by_bytes(trained: Run, faces: Faces, tmp_path: Path) -> None:
    again = training.train_or_load(SMALL, Settings(None, "sample", "cpu", tmp_path), faces)
    found = reproduce.compare(trained, training.score_test(again, faces))
    assert (found["compared"], found["agrees"], found["first_difference"]) == ("bytes", True, "")


def test_the_ledgers_run_is_reproduced_by_the_hashes_that_it_states(
    trained: Run, faces: Faces, shelf: Path, tmp_path: Path
) -> None:
    assert reproduce.compare(found_on(shelf, faces, tmp_path), trained)["first_difference"] == ""


def test_the_first_difference_is_named(trained: Run, tmp_path: Path) -> None:
    other = copy_of(trained, tmp_path / "other")
    history = trained.history.copy()
    history.loc[1, "validation_loss"] += 0.5
    artifacts.write_frame(other.folder / "history.csv", history)
    found = reproduce.compare(trained, other)
    assert not found["agrees"]
    assert found["first_difference"].startswith("history.csv: epoch 2, validation_loss:")


def test_a_difference_in_metrics_names_its_field(trained: Run, tmp_path: Path) -> None:
    other = copy_of(trained, tmp_path / "other")
    metrics = json.loads(json.dumps(trained.metrics))
    metrics["validation"]["classes"]["class1"]["f1"] = 2.0
    write_json(other.folder / "metrics.json", metrics)
    found = reproduce.compare(trained, other)["first_difference"]
    assert found.startswith("metrics.json: validation.classes.class1.f1:")


def test_on_another_processor_accuracies_must_agree_within_the_tolerance(trained: Run, tmp_path: Path) -> None:
    other = copy_of(trained, tmp_path / "other", processor="another one")
    metrics = json.loads(json.dumps(trained.metrics))
    allowed = report.tolerance(trained)["validation"]
    for off, agrees in ((0.9 * allowed, True), (1.1 * allowed, False)):
        metrics["validation"]["accuracy"] = trained.metrics["validation"]["accuracy"] - off
        write_json(other.folder / "metrics.json", metrics)
        found = reproduce.compare(trained, Run(trained.key, trained.params, other.folder))
        assert (found["compared"], found["machines_differ_in"]) == ("tolerance", ["processor"])
        assert found["agrees"] is agrees


def test_the_first_difference_of_a_page_is_named_and_provenance_is_left_out() -> None:
    page = '<h2 id="loss">Loss</h2>\n<p>{}</p>\n<!-- provenance -->{}<!-- /provenance -->'
    assert reproduce.first_page_difference(page.format(1, 2), page.format(1, 3)) == ""
    assert "section 'loss'" in reproduce.first_page_difference(page.format(1, 2), page.format(5, 2))


def test_a_page_that_is_not_current_is_not_compared_with(tmp_path: Path) -> None:
    here = Settings(None, "sample", "cpu", tmp_path)
    (here.reports / "01_basic_cnn").mkdir(parents=True)
    for name, text in (("default", "<p>old</p>"), ("fresh", "<p>new</p>")):
        (here.reports / f"01_basic_cnn/{name}.html").write_text(text)
    fresh = here.reports / "01_basic_cnn/fresh.html"
    stale, current = (SimpleNamespace(name="01_basic_cnn/default", reasons=r) for r in (["plots.py changed"], []))
    found = reproduce._compare_pages(here, stale, fresh, "bytes")  # type: ignore[arg-type]
    assert found == {"compared": "no: the one that stands is not current (plots.py changed)", "first_difference": ""}
    assert reproduce._compare_pages(here, current, fresh, "bytes")["first_difference"]  # type: ignore[arg-type]


def test_a_page_trained_afresh_is_the_named_one_and_the_environment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, page = artifacts.Settings(None, "sample", "cpu", tmp_path), "01_basic_cnn/default"
    plan = SimpleNamespace(pages={page: SimpleNamespace(own=SimpleNamespace(found="a run"))})
    monkeypatch.setattr(reproduce.build, "Plan", lambda *_: plan)
    monkeypatch.setattr(reproduce.build, "build", lambda *_: 0)
    monkeypatch.setenv("FER_OUT", "mine")
    monkeypatch.delenv("FER_AFRESH", raising=False)
    assert reproduce._train(scratch, page, 1) == ("a run", tmp_path / f"reports/sample/{page}.html")
    assert os.environ["FER_OUT"] == "mine" and "FER_AFRESH" not in os.environ
    monkeypatch.setattr(reproduce.build, "build", lambda *_: 1)
    with pytest.raises(FerError, match=f"{page} could not be trained afresh"):
        reproduce._train(scratch, page, 1)


# -- limits and use


def test_every_item_of_the_checklist_is_answered(trained: Run, faces: Faces) -> None:
    row = {"training_key": trained.key, "test_official_accuracy": 0.6}
    facts = limits.facts(faces, [trained], [row, row])
    text = report.filled("limits.md.j2", autoescape=False, **facts)
    source = (report.TEMPLATES / "page/limits.md.j2").read_text()
    assert meta.find_undeclared_variables(Environment().parse(source)) == set(facts)
    items = set(re.findall(r"\b([1-8][a-g])\b", "".join(re.findall(r"\*\*(.+?)\*\*", text, re.S))))
    expected = {f"{n}{letter}" for n, last in enumerate("cegcfccb", 1) for letter in "abcdefg" if letter <= last}
    assert items == expected
    assert len(items) == 32
    assert "scored for 1 runs" in text.replace("\n", " ")
    assert "at least 4.0 of ten test images" in text.replace("\n", " ")


# -- what is committed

PUBLISHED = ROOT / "reports" / "published" / "fer2013"
# The only commit whose runs ended in a checkout that was not clean.
UNCLEAN = "7fc26d86b51bc8ec7cf0fbc695984b4ff500eecc"
committed = pytest.mark.skipif(not (PUBLISHED / "results.csv").exists(), reason="nothing is published yet")


@committed
def test_readme_says_what_the_published_tables_say() -> None:
    stated = publish.RESULTS.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert stated is not None
    assert stated[0] == f"{stated[1]}{publish.readme_results(PUBLISHED)}{stated[2]}"


@committed
def test_published_index_says_what_the_published_tables_say() -> None:
    rows = (publish._rows(PUBLISHED / name) for name in ("results.csv", "claims.csv"))
    index = report.plain((PUBLISHED / "index.html").read_text(encoding="utf-8"))
    for paragraph in leaderboard.abstract(*rows).split("\n\n"):
        assert report.plain(report._linked_pages(report.markdown(paragraph), [])) in index


@committed
def test_no_published_page_links_to_what_is_not_there() -> None:
    assert dead_links(PUBLISHED) == []


@committed
def test_published_study_is_within_its_bounds() -> None:
    files = [file for file in PUBLISHED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= publish.ALL_BYTES
    assert max(file.stat().st_size for file in files if file.suffix == ".html") <= publish.PAGE_BYTES


@committed
def test_commits_that_published_pages_name_are_in_the_history() -> None:
    if report.git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the whole history is not here")
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PUBLISHED.rglob("*.html"))
    named = set(re.findall(r"\b[0-9a-f]{40}\b", pages))
    history = set(report.git("rev-list", "HEAD").split())
    assert named and named <= history, f"not in the history: {named - history}"


@committed
def test_published_runs_are_whole_and_from_clean_commits() -> None:
    records = {path.parent: read_json(path) for path in PUBLISHED.glob("runs/*/run.json")}
    committed_code = {record["code"] for record in records.values() if record["clean"]}
    for folder, record in records.items():
        assert publish._fault(folder, record, record["data_hash"]) == ""
        assert folder.name == record["identity"]
        # But for 07_beyond/default's: a page's text lay uncommitted then, and what trained is a clean checkout's code.
        assert record["clean"] or (record["commit"] == UNCLEAN and record["code"] in committed_code)


def test_neighbours_of_a_published_page_are_published() -> None:
    assert schema.neighbours(["a/x", "b/x", "d/x"]) == {
        "a/x": (None, "b/x"),
        "b/x": ("a/x", "d/x"),
        "d/x": ("b/x", None),
    }
    assert schema.neighbours(["a/x"]) == {"a/x": (None, None)} and schema.neighbours([]) == {}


def dead_links(folder: Path) -> list[str]:
    """What pages under a folder link to that does not lie there; addresses of other hosts are left alone."""
    return [
        f"{page.relative_to(folder)}: {href}"
        for page in sorted(folder.rglob("*.html"))
        for href in re.findall(r'href="(?!https?:|#|data:)([^"#]+)', page.read_text(encoding="utf-8"))
        if not (page.parent / href).exists()
    ]


# -- single faces


def planted(folder: Path) -> tuple[Path, np.ndarray]:
    """A fer2013.csv of 300 pictures that no average resembles: 6 x 6 random squares each."""
    random = np.random.default_rng(0)
    squares = random.integers(0, 256, (300, 6, 6), dtype=np.uint8)
    images = squares.repeat(8, axis=1).repeat(8, axis=2)
    usage = ["Training"] * 220 + ["PublicTest"] * 40 + ["PrivateTest"] * 40
    rows = [f"{i % 7},{' '.join(map(str, image.ravel()))},{usage[i]}" for i, image in enumerate(images)]
    (folder / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return folder / "fer2013.csv", squares.astype(float)


def shown(page: str, squares: np.ndarray) -> int:
    """How many of the planted pictures some picture of the page shows, at whatever size and place."""
    found: set[int] = set()
    wanted = squares.reshape(len(squares), -1)
    wanted = (wanted - wanted.mean(1, keepdims=True)) / wanted.std(1, keepdims=True)
    for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
        picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("L")
        for side in range(36, 260, 4):  # pixels that a 48 x 48 picture may take there; a square is then 3 pixels
            small = picture.resize((picture.width * 18 // side, picture.height * 18 // side), Image.Resampling.BOX)
            if min(small.size) < 18:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(np.asarray(small, float), (18, 18))[:, :, 1::3, 1::3]
            flat = windows.reshape(-1, 36)
            flat = flat[flat.std(1) > 20]
            flat = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
            found |= set(np.flatnonzero((wanted @ flat.T / 36 > 0.9).any(1))) if len(flat) else set()
    return len(found)


@pytest.mark.slow
def test_no_planted_face_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv, squares = planted(tmp_path)
    out, root = tmp_path / "out", tmp_path / "repository"
    for name, value in (("DATA", csv), ("NAME", "planted"), ("OUT", out), ("DEVICE", "cpu"), ("THREADS", 1)):
        monkeypatch.setenv(f"FER_{name}", str(value))
    settings = artifacts.settings()
    pages = ["00_exploration/default", "01_basic_cnn/lr_0_001"]
    assert publish.build.build(settings, pages, 2) == 0
    own = [(out / "reports" / "planted" / f"{name}.html").read_text(encoding="utf-8") for name in pages]
    assert all(shown(page, squares) > 3 for page in own) and "<dt>host</dt>" in own[1]  # the search finds what is there

    for module in (artifacts, publish):
        monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(report, "git", lambda *words: "" if "status" in words else "c0ffee")
    assert publish.publish(settings) == 0
    published = root / "reports" / "published" / "planted"
    for name in pages:
        page = (published / f"{name}.html").read_text(encoding="utf-8")
        assert shown(page, squares) == 0
        assert "<dt>host</dt>" not in page
    assert "Files of the 3 runs</summary>" in page and dead_links(published) == []  # of lr_0_001, the last
    kinds = {file.suffix for file in published.rglob("*") if file.is_file()}
    assert kinds <= {".html", ".csv", ".json", ".md", ".parquet", ".safetensors"}
    assert len(list(published.glob("runs/*/predictions.parquet"))) == 1
