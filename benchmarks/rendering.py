"""What a page of a finished study costs: all pages of the sample anew, without training, and where the time goes.

`python -m benchmarks.rendering [--out FOLDER]` builds the sample study (once: FOLDER is kept), then makes every page
anew with JOBS=2, with kernels forked from a zygote and with a fresh process each. Seconds a page are wall clock over
pages; on a machine that does other things as well they say little. So five pages, in the study's proportion of claims
and trainings, are then made one after the other in this process: their CPU seconds over JOBS are what an idle machine
would take a page, and each step's wall clock says where the time goes.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nbformat

from fer_core import artifacts, build, kernels, report, schema
from fer_core.schema import ROOT

JOBS = 2
PROFILED = (
    "05_analysis/dropout",
    "04_complex_cnn/default",
    "05_analysis/depth",
    "06_final/all_fixes",
    "05_analysis/class_weights",
)


def cpu_seconds() -> float:
    """This process's and those of all its descendants that ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def all_reports(out: Path, kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FER_OUT": str(out), "FER_JOBS": str(JOBS)}
    environment |= {"FER_KERNELS": kind, "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-m", "fer_core", "all-reports"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:] + done.stdout[-2000:])


def remake(out: Path, kind: str) -> tuple[int, float]:
    """Pages, and the seconds it takes to make every one anew from finished runs."""
    stood = list((out / "reports" / "sample").glob("*/*/page.json"))
    for file in stood:
        file.unlink()
    forget_checks(out, kind)
    began = time.monotonic()
    all_reports(out, kind)
    return len(stood), time.monotonic() - began


def forget_checks(out: Path, kind: str) -> None:
    """As it was before kernels were forked: the checks before training were computed for each page."""
    if kind == "fresh":
        shutil.rmtree(out / ".runs" / "checks", ignore_errors=True)


class Clock:
    """Wall-clock seconds of each step, in the order in which they came."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.steps[name] = time.monotonic() - began


def profile(name: str, out: Path, zygote: kernels.Zygote) -> dict[str, float]:
    """Seconds of each step of one page, made in this process; nothing in `out` changes."""
    settings = replace(artifacts.settings(), out=out)
    page, clock = schema.load_page(name), Clock()
    with tempfile.TemporaryDirectory() as folder, clock.step("all"):
        target = Path(folder) / "page.ipynb"
        with clock.step("plan"):
            build.Plan(settings, [name])
        began = time.time()
        with clock.step("papermill"):
            failure = report.execute(page, page.values, target, settings, zygote)
        if failure:
            raise RuntimeError(f"{name}: {failure}")
        notebook = nbformat.read(target, 4)
        told = [cell.metadata.papermill for cell in notebook.cells]
        code = [cell.metadata.papermill for cell in notebook.cells if cell.cell_type == "code"]
        with clock.step("clean"):
            cleaned = report.clean(notebook, settings)
        with clock.step("render"):
            report.render(cleaned, report.PageContext(name=name, title=name, dataset="sample"))
    durations = [entry.duration for entry in code]
    kernel = datetime.datetime.fromisoformat(told[0].start_time).timestamp() - began
    imports = durations[2]  # after the parameters and what papermill injected
    steps = {"plan": clock.steps["plan"], "kernel start": kernel, "imports": imports}
    steps["other cells"] = sum(durations) - imports
    steps["papermill"] = clock.steps["papermill"] - kernel - sum(durations)
    return steps | {"clean": clock.steps["clean"], "render": clock.steps["render"], "all": clock.steps["all"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the sample study is built, or stands from the last time")
    parser.add_argument("--kinds", nargs="+", default=["fresh", "forked"], choices=["fresh", "forked"])
    parser.add_argument("--profile-only", action="store_true", help="only the five pages; the study is built already")
    options = parser.parse_args()
    out = (options.out or Path(tempfile.mkdtemp(prefix="fer-rendering-"))).resolve()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    if not options.profile_only:
        all_reports(out, "forked")
        for kind in options.kinds:
            pages, wall = remake(out, kind)
            print(f"{kind}: {pages} pages in {wall:.1f} s, {wall / pages:.2f} s a page with JOBS={JOBS}", flush=True)
    os.environ |= {"FER_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for kind in options.kinds:
        os.environ["FER_KERNELS"] = kind
        forget_checks(out, kind)
        zygote, before = kernels.Zygote(), cpu_seconds()
        for name in PROFILED:
            steps = profile(name, out, zygote)
            print(f"  {name:<26}", "  ".join(f"{step} {seconds:.2f}" for step, seconds in steps.items()), flush=True)
        zygote.close()
        cpu = (cpu_seconds() - before) / len(PROFILED)
        print(f"{kind}: {cpu:.2f} CPU seconds a page, {cpu / JOBS:.2f} s a page on {JOBS} idle cores", flush=True)


if __name__ == "__main__":
    main()
