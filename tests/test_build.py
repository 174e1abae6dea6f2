"""The build on a copy of the tree with a small study of its own: content decides, failures stay failures."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fer_core import artifacts, build, report, schema, training
from fer_core.schema import ROOT

from .conftest import make_faces

CHEAP = "train_fraction = 0.1\nwidth = 0.25\nepochs = 1\nbatch_norm = True\n"
NET = """from fer_core import notebook, plots
params = notebook.parameters("01_net", globals())
run = notebook.train_or_load(params)
plots.show(plots.loss_curves(run.history), lead="loss", source="history.csv")"""


def cell(kind: str, source: str, *tags: str) -> dict[str, Any]:
    made: dict[str, Any] = {"cell_type": kind, "id": f"c{abs(hash(source)) % 10**8}", "metadata": {}, "source": source}
    if tags:
        made["metadata"]["tags"] = list(tags)
    return made | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def write_notebook(path: Path, *cells: dict[str, Any]) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": list(cells), "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


def command(tree: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FER_")}
    environment |= {"PYTHONPATH": str(tree), "WANDB_MODE": "disabled", **env}
    return subprocess.run(
        [sys.executable, "-m", "fer_core", *words], cwd=tree, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Two training pages, one whose second cell raises, built once."""
    tree = tmp_path_factory.mktemp("study")
    shutil.copytree(ROOT / "fer_core", tree / "fer_core", ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "notebooks").mkdir()
    title = cell("markdown", "# A small network\n\nWhy it is here.")
    parameters = cell("code", "learning_rate = 0.005\n" + CHEAP + "seeds = [0]\n", "parameters")
    write_notebook(
        tree / "notebooks/01_net.ipynb", title, parameters, *(cell("code", line) for line in NET.split("\n"))
    )
    raising = [cell("code", "from fer_core import notebook"), cell("code", "raise ValueError('broken on purpose')")]
    write_notebook(tree / "notebooks/02_bad.ipynb", title, parameters, *raising)
    pages = {"01_net/default": "seeds: [0, 1]\n", "01_net/slow": "learning_rate: 0.001\n", "02_bad/default": ""}
    for name, text in pages.items():
        (tree / "params" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "params" / f"{name}.yaml").write_text(f"# a page of the tests\n{text}")
    return tree, command(tree, "all-reports", FER_JOBS="2")


@pytest.fixture(scope="module")
def sound(built: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the page that fails, all of it current."""
    tree = tmp_path_factory.mktemp("sound") / "tree"
    shutil.copytree(built[0], tree)
    shutil.rmtree(tree / "params/02_bad")
    done = command(tree, "all-reports")
    assert done.returncode == 0, done.stderr
    return tree


@pytest.fixture
def tree(sound: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(sound, tmp_path / "tree"))


def reports(tree: Path) -> Path:
    return tree / "reports" / "sample"


def plan(tree: Path, **env: str) -> str:
    done = command(tree, "plan", **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_failing_page_is_listed_with_cell_and_error_and_the_others_are_made(built: Any) -> None:
    tree, done = built
    assert done.returncode == 1
    assert re.search(r"02_bad/default: cell \d.*ValueError.*broken on purpose", done.stdout)
    assert (reports(tree) / "02_bad/default.failed.html").exists()
    assert not (reports(tree) / "02_bad/default.html").exists()
    for page in ("default", "slow"):
        assert (reports(tree) / f"01_net/{page}.html").exists()
        assert not (reports(tree) / f"01_net/{page}.failed.html").exists()


def test_failed_page_is_tried_again_and_the_others_are_not(built: Any) -> None:
    text = plan(built[0])
    assert "02_bad/default: it failed before" in text
    assert "01_net" not in text


@pytest.mark.parametrize(
    ("page", "refused"),
    [("00_exploration/default", True), ("05_analysis/dropout", False), ("05_analysis/summary", False)],
)
def test_set_may_name_what_a_page_or_the_arms_of_its_claim_have(
    place: artifacts.Settings, page: str, refused: bool
) -> None:
    plan = build.Plan(dataclasses.replace(place, set_values={"epochs": 2}), [page])
    with pytest.raises(schema.ParameterError, match="unknown parameter epochs") if refused else nullcontext():
        plan.check_chosen()


def test_plan_says_that_data_without_a_labelled_test_set_gives_no_test_accuracy(place: artifacts.Settings) -> None:
    plan = build.Plan(place, ["00_exploration/default"])
    assert "test accuracy" not in plan.describe(1)
    plan.tested = False
    assert "no page will have a test accuracy" in plan.describe(1)


@pytest.mark.parametrize(
    ("written", "done"),
    [
        ({"progress": {"epoch": 3, "epochs": 9}}, 3),
        ({"progress": {"resuming": 4, "epochs": 9}}, 3),
        ({"run": {"state": "cut"}, "metrics": {"epochs": 5}}, 5),
        ({"run": {"state": "done"}, "metrics": {"epochs": 9}}, 0),  # it has lost files and is trained anew
        ({}, 0),
    ],
)
def test_epochs_that_a_run_has_behind_it_are_not_planned_again(tmp_path: Path, written: Any, done: int) -> None:
    for name, content in written.items():
        artifacts.write_json(tmp_path / f"{name}.json", content)
    assert build._epochs_done(tmp_path) == done


def test_artifacts_have_the_promised_names_and_columns(built: Any) -> None:
    folder = reports(built[0]) / "01_net/default"
    assert set(artifacts.RUN_FILES) <= {file.name for file in folder.iterdir()}
    with (folder / "history.csv").open() as file:
        assert tuple(next(csv.reader(file))) == artifacts.HISTORY_COLUMNS
    with (reports(built[0]) / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == artifacts.RESULT_COLUMNS
    assert [(row["page"], row["seed"]) for row in rows if row["page"] == "01_net/default"] == [
        ("01_net/default", "0"),
        ("01_net/default", "1"),
    ]
    with (reports(built[0]) / "claims.csv").open() as file:
        assert tuple(next(csv.reader(file))) == artifacts.CLAIM_COLUMNS


def test_page_holds_no_path_and_no_clock_outside_provenance(built: Any) -> None:
    html = (reports(built[0]) / "01_net/default.html").read_text()
    outside = re.sub(r"<!-- provenance -->.*<!-- /provenance -->", "", html, flags=re.DOTALL)
    assert outside != html
    assert str(built[0]) not in html
    started = json.loads((reports(built[0]) / "01_net/default/run.json").read_text())["started"]
    assert started[:10] not in outside


def test_second_build_executes_nothing_and_never_imports_torch(tree: Path) -> None:
    plan(tree)  # a copied store reads its images once more: their file is another one
    before = {file: file.stat().st_mtime_ns for file in reports(tree).rglob("*") if file.is_file()}
    script = "import sys; sys.argv = ['fer', 'all-reports']; from fer_core.__main__ import main; code = main(); "
    script += "heavy = {'torch', 'pandas', 'matplotlib'} & set(sys.modules); assert not heavy, heavy; sys.exit(code)"
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert before == {file: file.stat().st_mtime_ns for file in reports(tree).rglob("*") if file.is_file()}


def test_touching_everything_changes_nothing(tree: Path) -> None:
    for file in tree.rglob("*"):
        os.utime(file)
    assert "2 of 2 pages are current" in plan(tree)


def test_changed_learning_rate_is_named_and_concerns_its_page_alone(tree: Path) -> None:
    (tree / "params/01_net/slow.yaml").write_text("# why\nlearning_rate: 0.002\n")
    text = plan(tree)
    assert "01_net/slow: learning_rate 0.001 → 0.002" in text
    assert "1 run to train" in text
    assert "01_net/default:" not in text


def test_set_on_the_command_line_is_named_too(tree: Path) -> None:
    assert "epochs 1 → 2" in plan(tree, FER_SET="epochs=2")


def test_changed_plot_renders_again_without_training(tree: Path) -> None:
    file = tree / "fer_core/plots.py"
    file.write_text(file.read_text() + "\nUNUSED = 1\n")
    text = plan(tree)
    assert "0 of 2 pages are current" in text
    assert "plots.py changed" in text
    assert "to train" not in text


def test_comment_and_docstring_change_nothing(tree: Path) -> None:
    for name in ("plots.py", "training.py"):
        file = tree / "fer_core" / name
        text = file.read_text()
        file.write_text("# a remark\n" + text.replace('"""', '"""Reworded. ', 1))
    assert "2 of 2 pages are current" in plan(tree)


def test_changed_training_code_trains_everything_anew(tree: Path) -> None:
    file = tree / "fer_core/training.py"
    file.write_text(file.read_text() + "\nUNUSED = 1\n")
    assert "3 runs to train" in plan(tree)


def test_added_network_makes_nothing_stale(tree: Path) -> None:
    shutil.copy(tree / "fer_core/networks/basic_cnn.py", tree / "fer_core/networks/mine.py")
    assert "2 of 2 pages are current" in plan(tree)
    (tree / "params/01_net/mine.yaml").write_text("# an idea\nnetwork: mine\n")
    assert "01_net/mine: never made; 1 of 1 runs to train" in plan(tree)


def test_page_changed_by_hand_is_made_again(tree: Path) -> None:
    html = reports(tree) / "01_net/slow.html"
    html.write_text(html.read_text() + "<!-- mine -->")
    assert "01_net/slow: its HTML was changed by hand" in plan(tree)


def test_reworded_notebook_is_made_again_without_training(tree: Path) -> None:
    path = tree / "notebooks/01_net.ipynb"
    path.write_text(path.read_text().replace("Why it is here.", "Why it is there."))
    text = plan(tree)
    assert "its notebook changed" in text
    assert "to train" not in text


def test_reworded_reasons_are_shown_without_training(tree: Path) -> None:
    path = tree / "params/01_net/slow.yaml"
    path.write_text("# for another reason\n" + path.read_text())
    text = plan(tree)
    assert "01_net/slow: its YAML was reworded" in text
    assert "to train" not in text


@pytest.mark.parametrize(
    ("words", "env", "sentence"),
    [
        (("report", "01_net/defalt"), {}, "did you mean 01_net/default?"),
        (("report",), {}, "which page?"),
        (("plan",), {"FER_SET": "epoch=2"}, "did you mean epochs?"),
        (("plan",), {"FER_SET": "epochs=0"}, "expected at least 1"),
        (("report", "01_net/default"), {"FER_SET": "examples=2"}, "SET: unknown parameter examples"),
        (("plan",), {"FER_DATA": "nowhere.csv"}, "nowhere.csv"),
        (("plan",), {"FER_NAME": "published"}, "reserved"),
        (("plan",), {"FER_NAME": "fer2013"}, "add DATA="),
        (("plan",), {"FER_DEVICE": "gpu"}, "expected auto, cpu or cuda"),
        (("plan",), {"FER_DEVICE": "mps"}, "take cpu"),
        (("plan",), {"FER_OUT": "~nobody-of-this-name/out"}, "nobody here is called nobody-of-this-name"),
        (("plan",), {"FER_OUT": "README-or-any-file"}, "OUT cannot hold the drawn sample"),
        (("plan",), {"FER_JOBS": "two"}, "JOBS is 'two'"),
    ],
)
def test_bad_input_gets_one_sentence_and_no_traceback(
    built: Any, words: tuple[str, ...], env: dict[str, str], sentence: str
) -> None:
    (built[0] / "README-or-any-file").touch()
    done = command(built[0], *words, **env)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_clean_names_sizes_and_removes_what_can_be_rebuilt_and_nothing_else(tree: Path) -> None:
    for kept in ("reports/published/fer2013", "reports/thesis", ".runs/imported/some", "elsewhere"):
        (tree / kept).mkdir(parents=True)
    (tree / ".runs/linked").symlink_to(tree / "elsewhere", target_is_directory=True)
    done = command(tree, "clean")
    assert done.returncode == 0 and "MB" in done.stdout
    assert [path.name for path in (tree / ".runs").iterdir()] == ["imported"]
    assert sorted(path.name for path in (tree / "reports").iterdir()) == ["published", "thesis"]
    assert (tree / "elsewhere").exists() and (tree / ".runs/imported/some").exists()


def test_a_table_or_page_that_was_removed_or_changed_comes_back(tree: Path) -> None:
    stood = {name: (reports(tree) / name).read_bytes() for name in ("results.csv", "glossary.html", "index.html")}
    (reports(tree) / "results.csv").unlink()
    (reports(tree) / "glossary.html").write_text("mine")
    assert "are current" in command(tree, "all-reports").stdout
    assert {name: (reports(tree) / name).read_bytes() for name in stood} == stood


def test_a_failure_that_was_undone_is_forgotten(tree: Path) -> None:
    (reports(tree) / "01_net/slow.failed.html").write_text("it failed once")
    command(tree, "all-reports")
    assert "failed" not in (reports(tree) / "index.html").read_text().partition("<body")[2]


def test_a_worker_that_cannot_start_fails_its_pages(tree: Path) -> None:
    log = tree / ".runs/worker-0.log"
    log.unlink(missing_ok=True)
    log.mkdir()
    html = reports(tree) / "01_net/slow.html"
    html.unlink()
    done = command(tree, "report", "01_net/slow", FER_JOBS="1")
    assert done.returncode == 1 and "IsADirectoryError" in done.stdout
    assert not html.exists()


class Echo(build.Worker):
    """A worker whose process answers each message with itself."""

    script = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"

    def _start(self) -> subprocess.Popen[str]:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", self.script, str(self.log)], **pipes)


class Deaf(Echo):
    """One whose process says in the log that it was told something, then hears nothing for a minute."""

    script = """import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(input())
time.sleep(60)"""


def test_a_worker_killed_between_tasks_says_so_and_the_next_task_has_a_new_one(tmp_path: Path) -> None:
    worker = Echo(artifacts.settings(), tmp_path / "worker-0.log")
    assert worker.do({"task": 1}) == {"task": 1}
    first = worker.process
    assert first is not None
    first.kill()
    first.wait()
    assert "ended with signal 9; see worker-0.log" in worker.do({"task": 2})["error"]
    assert worker.do({"task": 3}) == {"task": 3}
    worker.close()
    assert worker.process is None


def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Deaf(artifacts.settings(), tmp_path / "worker-0.log")

    def work() -> None:
        with suppress(Exception):  # whatever it comes to: nobody asks any more
            worker.do({})

    busy = threading.Thread(target=work)
    busy.start()  # holds the stream that closing must wait for
    while not worker.log.exists():
        time.sleep(0.01)
    process = worker.process
    assert process is not None
    waits = iter([KeyboardInterrupt])

    def wait(*args: Any, **options: Any) -> int:
        if again := next(waits, None):
            raise again
        return subprocess.Popen.wait(process, *args, **options)

    monkeypatch.setattr(process, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        worker.close()
    assert process.wait() == -9
    busy.join(10)
    assert not busy.is_alive()


@pytest.mark.slow
def test_a_page_with_a_dot_asked_for_twice_under_a_name_of_ones_own_is_made_once_and_there(tree: Path) -> None:
    (tree / "params/01_net/lr_0.01.yaml").write_text("learning_rate: 0.01\n")
    done = command(tree, "report", *["01_net/lr_0.01"] * 2, FER_NAME="mine", FER_JOBS="2")
    assert done.returncode == 0 and "mine: 1 page made" in done.stdout and "Traceback" not in done.stderr
    assert (tree / "reports/mine/01_net/lr_0.01.html").exists() and not list(reports(tree).glob("01_net/lr*"))
    assert "01_net/lr_0.01" not in plan(tree, FER_NAME="mine")


def test_of_pages_that_wait_for_each_others_runs_one_goes_first(tmp_path: Path) -> None:
    work = build.Build(build.Plan(artifacts.Settings(None, "sample", "cpu", tmp_path), []), 1)
    one, other = (
        build.Task(n, {"kind": "page"}, {after}, 1.0, key) for n, after, key in (("p", "b", "a"), ("q", "a", "b"))
    )
    work.waiting = [one, other]
    assert work._next(("page",)) is one
    work._done(one, {"state": "done"})
    assert work._next(("page",)) is other


@pytest.mark.parametrize("state", ["cut", "done"])
def test_a_page_whose_own_run_was_cut_by_its_limit_says_so(
    place: artifacts.Settings, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    def made(page: Any, params: Any, settings: Any, runs: Any, own: artifacts.Run, *_: Any) -> None:
        artifacts.write_json(own.folder / "run.json", {"state": state})

    monkeypatch.setattr(report, "make_page", made)
    message = {"kind": "page", "name": "01_basic_cnn/default", "inputs": {}}
    assert build.perform(message, place, threading.Event()) == {"state": state}


def test_a_full_disk_is_told_with_its_remedy_and_without_a_path(
    place: artifacts.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(place.out / "x"))

    monkeypatch.setattr(training, "train_or_load", full)
    message = build.run_message(schema.Params(), "key")
    answer = build.perform(message, place, threading.Event(), make_faces())
    assert answer == {"error": report.NO_SPACE}


def test_damaged_records_break_no_plan(tree: Path) -> None:
    (reports(tree) / "01_net/slow/page.json").write_bytes(b"\xff\xfe")
    assert "01_net/slow: never made" in plan(tree)


def test_one_code_has_one_fingerprint_on_every_python() -> None:
    known = artifacts.code_fingerprint("networks/layers.py", "augment.py")
    code = "from fer_core import artifacts; print(artifacts.code_fingerprint('networks/layers.py', 'augment.py'))"
    others = [python for minor in (12, 13) if (python := shutil.which(f"python3.{minor}"))]
    others = [python for python in others if subprocess.run([python, "-V"], capture_output=True).returncode == 0]
    if not others:
        pytest.skip("no other Python here")
    for python in others:
        done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == known


def test_a_page_can_be_asked_for_by_its_file() -> None:
    asked = ["reports/sample/04_complex_cnn/default.html", "reports/mine/index.html"]
    own = {name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS|PYTHON$|FER_", name)}
    done = subprocess.run(["make", "-n", *asked], cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert "FER_NAME=sample .venv/bin/python -m fer_core report 04_complex_cnn/default\n" in done.stdout
    assert "FER_NAME=mine .venv/bin/python -m fer_core all-reports\n" in done.stdout


def test_what_is_printed_reaches_a_pipe_that_knows_no_arrows(sound: Path) -> None:
    done = command(sound, "plan", FER_SET="learning_rate=0.02", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "learning_rate 0.005 ? 0.02" in done.stdout, done.stderr


def test_a_plan_may_be_read_in_part(sound: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FER_")} | {"PYTHONPATH": str(sound)}
    words = f"{sys.executable} -m fer_core plan | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words], cwd=sound, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failed_build_fails_whoever_reads_of_it(built: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(built[0], tree)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FER_")} | {"PYTHONPATH": str(tree)}
    words = f"{sys.executable} -m fer_core report 02_bad/default 2>/dev/null | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", words], cwd=tree, env=environment, capture_output=True)
    assert done.returncode == 1


def test_a_page_that_lost_a_file_beside_it_is_made_anew(tree: Path) -> None:
    (reports(tree) / "01_net/slow/metrics.json").unlink()
    assert "01_net/slow: metrics.json is gone" in plan(tree)


def test_a_run_that_lost_a_file_is_no_finished_run(place: artifacts.Settings) -> None:
    faces = make_faces()
    params = schema.Params(epochs=1, width=0.25, threads=1, precision="float32", batch_size=32)
    run = training.train_or_load(params, place, faces)
    whole = {name: (run.folder / name).read_bytes() for name in ("history.csv", "metrics.json", "model.safetensors")}
    wanted = artifacts.run_key(params, faces.data_hash, "cpu")
    for name in ("history.csv", "metrics.json"):
        found = artifacts.find_run(params, wanted, place.store)
        assert found is not None and "metrics" not in vars(found)  # not kept: the test may yet be scored
        (run.folder / name).unlink()
        assert artifacts.find_run(params, wanted, place.store) is None
        assert "error" not in build.perform(build.run_message(params, run.key), place, threading.Event(), faces)
        assert {name: (run.folder / name).read_bytes() for name in whole} == whole


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"rule": [{"arm": "to the end", "against": "onee", "direction": "below", "threshold": 0}]},
            "'onee' is not an",
        ),
        ({"metric": "recall_angri"}, "no class is called 'angri'"),
        ({"metric": "validation_acuracy"}, "did you mean validation_accuracy?"),
        ({"arms": {"to the end": "06_final/patience_1"}}, "an arm is {page: …, set: {…}}, found '06_final/patience_1'"),
        ({"arms": {"to the end": None}}, "an arm is {page: …, set: {…}}, found None"),
        ({"arms": {"to the end": {"page": "06_final/patience_1", "set": ["epochs"]}}}, "an arm is {page: …, set: {…}}"),
    ],
)
def test_a_faulty_claim_is_told_with_its_file_before_anything_trains(
    place: artifacts.Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    load, name = schema.load_page, "05_analysis/epochs"

    def changed(asked: str) -> schema.Page:
        page = load(asked)
        return schema.Page(page.name, page.values | changes) if asked == name else page

    monkeypatch.setattr(schema, "load_page", changed)
    with pytest.raises(schema.ParameterError) as fault:
        build.Plan(place, [name])
    assert str(fault.value).startswith(f"params/{name}.yaml: ") and told in str(fault.value)


def test_a_claims_page_is_stale_once_a_page_that_it_compares_scores_the_test_otherwise(
    place: artifacts.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, load = "05_analysis/depth", schema.load_page
    before = build.Plan(place, [name]).pages[name].inputs

    def unscored(asked: str) -> schema.Page:
        page = load(asked)
        return schema.Page(page.name, page.values | {"score_test": False}) if asked.startswith("04_") else page

    monkeypatch.setattr(schema, "load_page", unscored)
    assert build.Plan(place, [name]).pages[name].inputs != before


def test_a_summary_made_where_a_run_failed_is_made_anew_once_the_run_is_there(place: artifacts.Settings) -> None:
    summary = "05_analysis/summary"
    made, ended = (build.Plan(place, [summary]), build.Plan(place, ended=True))  # as a worker makes it; after the build
    assert made.pages[summary].inputs == ended.pages[summary].inputs
    assert build.Plan(place).pages[summary].inputs != made.pages[summary].inputs  # the next build has them to come


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_plan_says_before_anything_trains_that_a_claim_would_mix_what_was_computed_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    stood = SimpleNamespace(foreign="", provenance={"device": "cpu", "precision": "float32"})
    monkeypatch.setattr(build, "find_run", lambda params, *_: stood if params.seed == 0 else None)
    place = artifacts.Settings(None, "sample", "cpu", tmp_path, {"precision": precision})
    told = build.Plan(place, ["05_analysis/half_turn"]).chosen[0].reasons[-1]
    assert "runs to train" in told
    assert ("bfloat16 on cpu and float32 on cpu would be mixed" in told) == (precision == "bfloat16")


def test_summary_made_before_its_claims_were_trained_is_stale_once_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = artifacts.Settings(None, "sample", "cpu", tmp_path)
    summary = "05_analysis/summary"
    alone, whole = (build.Plan(place, names).pages[summary].inputs for names in ([summary], None))
    monkeypatch.setattr(build, "find_run", lambda *_: SimpleNamespace(foreign=""))
    trained = build.Plan(place, [summary]).pages[summary].inputs
    assert alone != whole == trained
