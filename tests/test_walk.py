"""README's walk from an idea to its page in the index, taken literally on a copy of the tree."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_core.schema import ROOT

KEYS = """
import json
from fer_core import artifacts, build
plan = build.Plan(artifacts.settings())
pages = plan.pages.items()
print(json.dumps([{n: [run.key for run in page.runs] for n, page in pages}, {n: page.inputs for n, page in pages}]))
"""


def walk() -> tuple[dict[str, str], list[str]]:
    """The files that README shows, by the path named before each, and the commands, in order."""
    text = re.findall(r"<!-- walk -->\n(.*?)<!-- /walk -->", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(text) == 1
    blocks = re.findall(r"(?:`([\w./]+)`:\n\n)?```(\w+)\n(.*?)```", text[0], re.S)
    files = {path: source for path, language, source in blocks if language in ("python", "yaml")}
    commands = [line for _, language, source in blocks if language == "sh" for line in source.splitlines()]
    return files, commands


def environment(tree: Path) -> dict[str, str]:
    """Without what the caller's own make was told: make takes its variables from the environment too."""
    told = ("DATA", "NAME", "DEVICE", "JOBS", "OUT", "SET", "PAGE", "RUN")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "MAKE")) and k not in told}
    return {**kept, "PYTHON": sys.executable, "PYTHONPATH": str(tree), "WANDB_MODE": "disabled"}


def done(tree: Path, *words: str) -> str:
    made = subprocess.run(words, cwd=tree, env=environment(tree), capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("fer_core", "notebooks", "params"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_walk_is_one_file_one_yaml_and_commands_that_make_knows() -> None:
    files, commands = walk()
    assert sorted(Path(path).suffix for path in files) == [".py", ".yaml"]
    assert not [path for path in files if (ROOT / path).exists()]
    assert [command.split()[:2] for command in commands] == [["make", "plan"], ["make", "report"]]


@pytest.mark.slow
def test_the_walk_ends_with_its_page_in_the_index_and_makes_no_training_stale(tree: Path) -> None:
    runs_before, pages_before = json.loads(done(tree, sys.executable, "-c", KEYS))
    files, commands = walk()
    for path, source in files.items():
        (tree / path).write_text(source, encoding="utf-8")
    told = [done(tree, "sh", "-c", command) for command in commands]
    page = "04_complex_cnn/patches"
    assert f"{page}: never made; 2 of 2 runs to train" in told[0]

    runs, pages = json.loads(done(tree, sys.executable, "-c", KEYS))
    assert {name: keys for name, keys in runs.items() if name != page} == runs_before
    anew = {name for name, key in pages_before.items() if pages[name] != key}
    assert len(anew) <= 3 and anew >= {"04_complex_cnn/default"}
    reports = tree / "reports/sample"
    assert f'href="{page}.html"' in (reports / "index.html").read_text()
    assert (reports / f"{page}.html").exists()
    with (reports / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["page"] == page]
    assert [(row["network"], row["seed"]) for row in rows] == [("patches", "0"), ("patches", "1")]
    assert "Grad-CAM" in (reports / f"{page}.html").read_text()
