"""Kill a training with SIGKILL at random moments, start it again, and compare with one that was never killed.

`python -m benchmarks.kills --kills 50` prints the tally. A training is a process of its own on drawn images; it is
killed after a random time, again and again, until it has got through; then its files must have the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fer_core.artifacts import read_json
from fer_core.schema import ROOT

COMPARED = ("model.safetensors", "history.csv", "predictions.parquet", "metrics.json", "network.csv")
TRAINING = """
from pathlib import Path
import sys
from fer_core import data, training
from fer_core.artifacts import Settings
from fer_core.schema import Params

settings = Settings(None, "sample", "cpu", Path(sys.argv[1]))
params = Params(epochs=12, width=0.25, batch_norm=True, dropout=0.2, dropout_fc=0.2, learning_rate=0.005, threads=1,
                train_fraction=0.1, mirror_probability=0.5, rotation_degrees=10.0, ema_decay=0.9,
                schedule="plateau", plateau_patience=0, select="best_validation_accuracy", precision="float32")
faces = data.open_faces(None, settings.store)
print("ready", flush=True)
training.train_or_load(params, settings, faces)
"""


def start(out: Path) -> subprocess.Popen[str]:
    """A training in a process group of its own; returns once it has begun to train."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finish(out: Path) -> dict[str, bytes]:
    """Let it run to its end; the bytes it leaves."""
    process = start(out)
    process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the training ended with status {process.returncode}")
    folder = next((out / ".runs" / "runs").glob("*/run.json")).parent
    return {name: (folder / name).read_bytes() for name in COMPARED}


def kill(out: Path, after: float) -> int | None:
    """Start, kill after so many seconds; the epochs that stand in its checkpoint's progress, None if it got through."""
    process = start(out)
    time.sleep(after)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    progress = next(((out / ".runs" / "runs").glob("*/progress.json")), None)
    return None if ended else int((read_json(progress) or {}).get("epoch", 0)) if progress else 0


def tally(kills: int, seed: int = 0) -> tuple[int, int, list[int]]:
    """Kill so often, over as many trainings as that takes; how many trainings, how many with equal bytes, and where."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        whole = finish(Path(folder, "whole"))
        longest = time.monotonic() - began
        equal, trainings, epochs = 0, 0, []
        while len(epochs) < kills:
            out = Path(folder, f"run{trainings}")
            for _ in range(min(5, kills - len(epochs))):
                epoch = kill(out, chance.uniform(0.0, longest / 3))
                if epoch is None:  # it had got through: no kill
                    break
                epochs.append(epoch)
            trainings += 1
            equal += finish(out) == whole
    return trainings, equal, epochs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    trainings, equal, epochs = tally(options.kills)
    print(f"{len(epochs)} kills over {trainings} trainings of 12 epochs, after epochs {sorted(epochs)}")
    print(f"{equal} of {trainings} ended with the bytes of one never killed")
    return 0 if equal == trainings else 1


if __name__ == "__main__":
    sys.exit(main())
