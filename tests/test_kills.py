"""No run is ever lost: killed at random moments it ends with the bytes of one that was not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kills import tally
from fer_core.schema import ROOT

pytestmark = pytest.mark.slow


def test_training_killed_at_random_moments_ends_with_the_same_bytes() -> None:
    trainings, equal, epochs = tally(kills=12, seed=1)
    assert equal == trainings
    assert len(epochs) >= 10


def build(out: Path, epochs: int = 6) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "FER_OUT": str(out), "FER_SET": f"seeds=[0] epochs={epochs}", "FER_JOBS": "1"}
    words = [sys.executable, "-m", "fer_core", "report", "03_dropout/default"]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def page(out: Path) -> str:
    html = (out / "reports/sample/03_dropout/default.html").read_text()
    return re.sub(r"<!-- provenance -->.*<!-- /provenance -->", "", html, flags=re.DOTALL)


def test_build_killed_in_mid_training_leaves_no_page_and_then_makes_the_same_one(tmp_path: Path) -> None:
    assert build(tmp_path / "whole").wait() == 0
    killed = build(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").rglob("progress.json")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed/reports/sample/03_dropout/default.html").exists()
    assert build(tmp_path / "killed").wait() == 0
    assert page(tmp_path / "killed") == page(tmp_path / "whole")


def test_sigterm_ends_a_worker_with_a_status_of_its_own_and_the_next_build_goes_on(tmp_path: Path) -> None:
    # Enough epochs that a quick machine does not finish them before the signal has reached the worker.
    running = build(tmp_path, epochs=20)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 75
    done = subprocess.run(
        [sys.executable, "-m", "fer_core", "report", "03_dropout/default"],
        cwd=ROOT,
        env={**os.environ, "FER_OUT": str(tmp_path), "FER_SET": "seeds=[0] epochs=20", "FER_JOBS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert re.search(r"resuming at epoch \d+ of 20", done.stderr)
