"""Two clones on one machine make the same bytes: any user, folder, time zone, locale, hash seed, order and JOBS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_core.artifacts import digest
from fer_core.schema import ROOT

pytestmark = pytest.mark.slow

PAGES = ("00_exploration/default", "01_basic_cnn/lr_0_001", "05_analysis/learning_rate")
SET = "epochs=1 seeds=[0,1] width=0.1"
LEFT_OUT = {"run.json", "page.json"}  # provenance itself, and a digest of pages with theirs


def clone(folder: Path) -> Path:
    """The repository as it is checked out here, whether committed or not."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    words = ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"]
    changed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, changed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def make(repository: Path, pages: tuple[str, ...], **more: str) -> None:
    """`python -m fer_core report` in a clone, by a user of its own, with reports in the clone as a user has them."""
    home = repository.parent / "home"
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    told = {"HOME": str(home), "PYTHONPATH": str(repository), "FER_SET": SET, "WANDB_MODE": "disabled"}
    words = [sys.executable, "-m", "fer_core", "report", *pages]
    done = subprocess.run(words, cwd=repository, env={**kept, **told, **more}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def made(repository: Path) -> dict[str, str]:
    """Digest of every file beside and below the index, pages without what stands between the provenance marks."""
    folder = repository / "reports" / "sample"
    files = [file for file in folder.rglob("*") if file.is_file() and file.name not in LEFT_OUT]
    found = {}
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".html":
            content = re.sub(rb"<!-- provenance -->.*?<!-- /provenance -->", b"", content, flags=re.DOTALL)
        found[str(file.relative_to(folder))] = digest(content)
    return found


def test_two_clones_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = clone(tmp_path / "one" / "fer"), clone(tmp_path / "another user's" / "ein längerer Weg" / "clone")
    make(one, PAGES, TZ="UTC", LC_ALL="C.UTF-8", PYTHONHASHSEED="1", FER_JOBS="2", USER="ann", LOGNAME="ann")

    theirs = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "LANGUAGE": "de", "PYTHONHASHSEED": "4242", "FER_JOBS": "1"}
    # The claim first: its runs are trained without a notebook, the page finds them.
    for pages in (PAGES[2:], PAGES[1::-1]):
        make(other, pages, USER="bob", LOGNAME="bob", **theirs)

    expected = made(one)
    assert {f"{page}.html" for page in PAGES} < set(expected)
    assert {"index.html", "results.csv", "claims.csv", "01_basic_cnn/lr_0_001/model.safetensors"} < set(expected)
    found = made(other)
    assert {name for name in {*expected, *found} if expected.get(name) != found.get(name)} == set()
