"""A notebook runs unchanged under plain papermill and cell by cell in a kernel; `make` is for test_build and CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from fer_core import artifacts, schema
from fer_core.schema import ROOT

QUICK = "epochs=1 seeds=[0] width=0.1"


def environment(out: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "FER_OUT": str(out), "FER_THREADS": "1", **more}


def papermill(notebook: str, page: str, out: Path, **more: str) -> Any:
    """`papermill notebooks/X.ipynb out.ipynb -f params/X/Y.yaml`, as a person types it in the repository."""
    made = out / "out.ipynb"
    words = ["papermill", f"notebooks/{notebook}.ipynb", str(made), "-f", f"params/{notebook}/{page}.yaml"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *words, "--no-progress-bar"],
        cwd=ROOT,
        env=environment(out, **more),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return nbformat.read(made, 4)


def outputs(notebook: Any) -> str:
    return "".join(str(cell.get("outputs", "")) for cell in notebook.cells)


@pytest.mark.slow
def test_plain_papermill_trains_loads_and_shows_the_same(tmp_path: Path) -> None:
    trained = papermill("01_basic_cnn", "lr_0_001", tmp_path, FER_SET=QUICK)
    assert outputs(trained).count("image/png") >= 6
    assert not (tmp_path / "reports").exists()
    assert outputs(papermill("01_basic_cnn", "lr_0_001", tmp_path, FER_SET=QUICK)) == outputs(trained)


@pytest.mark.slow
def test_nothing_of_tracking_no_path_and_no_clock_in_what_is_shown(tmp_path: Path) -> None:
    shown = outputs(papermill("01_basic_cnn", "lr_0_001", tmp_path, FER_SET=QUICK, WANDB_MODE="offline"))
    assert list(tmp_path.rglob("*.wandb"))
    assert "wandb" not in shown.lower()
    assert str(tmp_path) not in shown
    assert str(ROOT) not in shown


class Kernel:
    """A Jupyter kernel that a notebook's cells are sent to one by one, as a person does."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        self.manager.start_kernel(cwd=str(ROOT / "notebooks"), env=env)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, source: str) -> tuple[str, str]:
        """Status and the text of all outputs."""
        shown: list[str] = []
        reply = self.client.execute_interactive(
            source, timeout=180, output_hook=lambda message: shown.append(str(message["content"]))
        )
        return reply["content"]["status"], "\n".join(shown)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    opened = Kernel(tmp_path, environment(tmp_path, FER_SET=QUICK))
    yield opened
    opened.close()


def code_cells(notebook: str) -> list[str]:
    return ["".join(cell["source"]) for cell in schema.read_notebook(notebook)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["03_dropout", "05_analysis"])
def test_cells_run_one_by_one_in_a_kernel_with_the_notebooks_defaults(kernel: Kernel, notebook: str) -> None:
    for source in code_cells(notebook):
        status, shown = kernel.run(source)
        assert status == "ok", f"{source}\n{shown[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", list({name.split("/")[0]: name for name in reversed(schema.page_names())}.values()))
def test_every_notebook_runs_under_plain_papermill(page: str, tmp_path: Path) -> None:
    notebook, name = page.split("/")
    papermill(notebook, name, tmp_path, **({} if notebook in ("00_exploration", "05_analysis") else {"FER_SET": QUICK}))


@pytest.mark.slow
def test_training_interrupted_in_a_cell_goes_on_where_it_stood(tmp_path: Path) -> None:
    opened = Kernel(tmp_path, environment(tmp_path, FER_SET="epochs=40 seeds=[0] width=0.2"))
    try:
        cells = code_cells("01_basic_cnn")
        training = next(i for i, source in enumerate(cells) if "notebook.train_or_load" in source)
        for source in cells[:training]:
            assert opened.run(source)[0] == "ok"
        asked = opened.client.execute(cells[training])
        deadline = time.monotonic() + 120
        while (progress := next(tmp_path.rglob("progress.json"), None)) is None or epoch_of(progress) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        opened.manager.interrupt_kernel()
        while opened.client.get_shell_msg(timeout=120)["parent_header"].get("msg_id") != asked:
            pass
        assert not list(tmp_path.rglob("model.safetensors"))
        # A kernel that was interrupted aborts what it is asked until it has told so: on a busy machine a moment longer.
        asked_again = (opened.run(cells[training]) for _ in range(20))
        status, shown = next(answer for answer in asked_again if answer[0] != "aborted")
    finally:
        opened.close()
    assert status == "ok"
    resumed = re.search(r"epoch (\d+) \(resuming\) of 40", shown)
    assert resumed
    assert int(resumed.group(1)) >= 3


def epoch_of(progress: Path) -> int:
    return int((artifacts.read_json(progress) or {}).get("epoch", 0))
