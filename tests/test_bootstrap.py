"""The cell for Colab and Kaggle: generated, inert elsewhere, and with a wheel enough to run a notebook anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fer_core import artifacts, bootstrap, schema
from fer_core.schema import ROOT, FerError

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCE = "".join(bootstrap.cell()["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_starts_with_the_generated_cell(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0] == bootstrap.cell(bootstrap.repository()), "python -m fer_core bootstrap --write"
    assert sum(cell["id"] == schema.BOOTSTRAP for cell in cells) == 1


def test_the_study_does_not_see_the_cell() -> None:
    for path in NOTEBOOKS:
        cells = schema.read_notebook(path.stem)["cells"]
        assert cells == json.loads(path.read_text(encoding="utf-8"))["cells"][1:]


def test_writing_twice_changes_a_notebook_once_and_nothing_else(tmp_path: Path) -> None:
    found = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    without = {**found, "cells": found["cells"][1:]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(without, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert bootstrap.write(path)
    assert json.loads(path.read_text(encoding="utf-8"))["cells"][1:] == without["cells"]
    assert not bootstrap.write(path)
    assert path.read_bytes() == NOTEBOOKS[0].read_bytes()


def test_the_address_stands_in_the_cell_where_there_is_one() -> None:
    source = "".join(bootstrap.cell("git+https://example.org/study")["source"])
    assert "or 'git+https://example.org/study' or" in source
    assert "git+" not in SOURCE


def run(source: str, folder: Path, *paths: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`source` in a fresh interpreter that sees `paths` and none of this repository."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "KAGGLE_", "PYTHONPATH"))}
    words = [sys.executable, "-P", "-c", source]
    env = {"PYTHONPATH": os.pathsep.join(map(str, paths)), **env}
    return subprocess.run(words, cwd=folder, env={**clean, **env}, capture_output=True, text=True)


def test_elsewhere_the_cell_does_nothing(tmp_path: Path) -> None:
    told = "\nprint('fer_core' in sys.modules, host == '', 'FER_OUT' in os.environ)"
    done = run(SOURCE + told, tmp_path, ROOT)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr
    assert not list(tmp_path.iterdir())


def test_without_a_wheel_the_cell_says_what_to_do(tmp_path: Path) -> None:
    without = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'fer_core' else f(n)\n"
    done = run(without + SOURCE, tmp_path, KAGGLE_KERNEL_RUN_TYPE="Interactive")
    assert done.returncode == 1
    assert (
        done.stderr.strip() == "No fer_core-*.whl here: upload one (made by pip wheel --no-deps .) or set FER_PACKAGE."
    )


def asked_for(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: list(requirements))


def test_only_what_is_missing_and_light_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    present, heavy = "pyyaml>=999", ("torch==9.9", "torchvision==9.9", "numpy>=9")
    asked_for(monkeypatch, "no-such-package>=2.7", present, *heavy, "jupyterlab>=99", 'no-such-tool>=1; extra == "dev"')
    assert bootstrap.missing() == ["no-such-package>=2.7"]


def test_pip_is_told_to_leave_torch_and_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def pip(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    bootstrap.install(["a-package>=1"], tmp_path)
    assert asked[0][1:] == ["-m", "pip", "install", "-q", "--constraint", str(tmp_path / "held.txt"), "a-package>=1"]
    held = (tmp_path / "held.txt").read_text().split()
    assert held == [f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision", "numpy")]


def test_a_pip_that_fails_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="pip could not install no-such-package: is this machine's Internet on"):
        bootstrap.install(["no-such-package @ file:///nowhere/x.whl"], tmp_path)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for google.colab whose Drive is a folder; nothing is missing."""
    (tmp_path / "fake/google/colab").mkdir(parents=True)
    (tmp_path / "fake/google/colab/__init__.py").write_text("")
    (tmp_path / "fake/google/colab/drive.py").write_text(
        f"def mount(path):\n    open({str(tmp_path / 'mounted')!r}, 'a').write(path)\n"
        f"    import os; os.makedirs({str(tmp_path / 'MyDrive')!r}, exist_ok=True)\n"
    )
    return tmp_path


def test_out_goes_to_drive_on_colab_unless_the_user_says_otherwise(host: Path) -> None:
    call = "import os; from pathlib import Path; from fer_core import bootstrap; bootstrap.missing = list; "
    call += f"bootstrap.FOLDERS = {{'colab': Path({str(host / 'MyDrive/fer')!r})}}; bootstrap.prepare('colab'); "
    call += "print(os.environ['FER_OUT'])"
    version = "from importlib import metadata; metadata.version = lambda _: '0'; "
    done = run(version + call, host, host / "fake", ROOT)
    assert done.stdout.splitlines()[-1] == str(host / "MyDrive/fer"), done.stderr
    assert (host / "mounted").read_text() == "/content/drive"
    done = run(version + call, host, host / "fake", ROOT, FER_OUT=str(host / "mine"))
    assert done.stdout.splitlines()[-1] == str(host / "mine"), done.stderr


def test_kaggle_is_told_from_colab_whose_image_it_uses() -> None:
    assert SOURCE.index("KAGGLE_KERNEL_RUN_TYPE") < SOURCE.index("google.colab")
    assert bootstrap.FOLDERS["kaggle"] == Path("/kaggle/working")


# ------------------------------------------------------------------------------------------- from a wheel, outside


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree, so that none of the build's folders stays in the repository."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("fer_core", "notebooks", "params"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tree / "dist"), str(tree)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next((tree / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that has the host's packages, torch among them, and not this one."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    found = [sys.executable, python]
    theirs, ours = (
        subprocess.run([p, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True)
        for p in found
    )
    # A path in a .pth file is taken as it is: the .pth files in it, with this repository in one of them, are not.
    Path(ours.stdout.strip(), "host.pth").write_text(theirs.stdout)
    return python


@pytest.mark.slow
def test_the_wheel_carries_the_study(wheel: Path) -> None:
    import zipfile

    names = set(zipfile.ZipFile(wheel).namelist())
    study = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "params").rglob("*.yaml")]
    assert {f"fer_core/study/{path.relative_to(ROOT).as_posix()}" for path in study} <= names
    assert {"fer_core/template/page/index.html.j2", "fer_core/networks/basic_cnn.py"} <= names


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="bin/python")
def test_notebook_and_report_run_in_a_bare_environment_from_the_wheel(wheel: Path, bare: Path, host: Path) -> None:
    """As on Colab: a notebook alone in a folder, the wheel beside it, a Drive to mount; torch stays as it was."""
    work, out = host / "content", host / "MyDrive/fer"
    work.mkdir()
    shutil.copy(wheel, work)
    shutil.copy(ROOT / "notebooks/01_basic_cnn.ipynb", work)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "KAGGLE_"))}
    env |= {"PYTHONPATH": str(host / "fake"), "FER_OUT": str(out), "FER_SET": "epochs=1 seeds=[0] width=0.1"}
    env |= {"WANDB_MODE": "disabled", "PIP_LOG": str(host / "pip.log"), "PIP_NO_INDEX": "1", "FER_THREADS": "1"}

    def python(*words: str) -> str:
        done = subprocess.run([bare, "-W", "ignore", *words], cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    tell = "import os, torch, numpy; host = torch, numpy; "
    tell += "print([(m.__version__, m.__file__, os.stat(m.__file__).st_mtime_ns) for m in host])"
    before = python("-c", tell)
    assert python("-c", "import importlib.util; print(importlib.util.find_spec('fer_core'))").strip() == "None"
    python("-m", "papermill", "01_basic_cnn.ipynb", "out.ipynb", "-k", "python3", "--no-progress-bar")
    assert python("-c", tell) == before
    assert "fer_core" in python("-c", "import fer_core.schema as s; print(s.ROOT)")
    log = (host / "pip.log").read_text()
    assert "Successfully installed fer-core" in log
    assert "torch" not in log
    assert (host / "mounted").read_text() == "/content/drive"
    assert len(list(out.glob(".runs/runs/*/model.safetensors"))) == 1
    assert not (work / "reports").exists()

    python("-m", "fer_core", "report", "01_basic_cnn/lr_0_001", "--jobs", "1")
    page = out / "reports/sample/01_basic_cnn/lr_0_001.html"
    assert "Drawn data" in page.read_text()
    assert str(host) not in page.read_text()
    assert "google.colab" not in page.read_text()
    assert artifacts.read_json(page.with_suffix("") / "page.json")["finding"]
