"""What an epoch costs as the work grows: 1, 3 and 10 times FER2013's training images, batches of 32 to 1024.

`python -m benchmarks.scaling` prints seconds an epoch (a step's, measured, times the epoch's steps) and peak memory,
each in a process of its own. Both are linear. Seconds: a step costs its batch, an epoch its images; neither depends
on how many images there are. Memory: the images stay as uint8, 2,304 bytes each, once as read and once as parted for
training; above that stands the moment before training when `pixel_scale` counts pixel values (numpy's bincount widens
them to 8 bytes: 18 kB a training image), which is the peak. A step's feature maps grow with the batch alone and show
only where the images are few.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import torch

from fer_core import augment, devices, training
from fer_core.data import Faces, make_split
from fer_core.schema import EMOTIONS, Params

TRAINING_IMAGES = 24_224  # of the 0.75 sample
RECIPE = Params(batch_norm=True, dropout=0.25, dropout_fc=0.5, rotation_degrees=10.0, mirror_probability=0.5)


def drawn(times: int) -> Faces:
    """Noise in FER2013's shape: only cost is measured."""
    n = round(times * TRAINING_IMAGES / 0.75) + 2
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n, 48, 48), dtype=np.uint8)
    labels = random.integers(0, len(EMOTIONS), n).astype(np.uint8)
    usage = np.zeros(n, np.uint8)
    usage[-2:] = (1, 2)
    ids = np.arange(n).astype(str)
    return Faces(images, labels, usage, ids, np.arange(n, dtype=np.int32), EMOTIONS, "noise", "noise", "drawn")


def measure(times: int, batch_size: int, steps: int, results: Any) -> None:
    """Put (seconds a step, steps an epoch, peak bytes) into `results`."""
    params, device = devices.resolve(RECIPE.replace(batch_size=batch_size, threads=1))
    faces = drawn(times)
    with devices.ready(device, 1):
        session = training.prepare(params, faces, make_split(faces), device)
        numbers = augment.draw(params, faces.n, 0, 1, device)[torch.from_numpy(session.train.rows)]
        batches = training._batches(training._order(session, 1, faces.n), batch_size)
        session.network.train()
        began = 0.0
        for step in range(-1, steps):
            if step == 0:
                began = time.perf_counter()
            chosen = batches[step % len(batches)]
            training.train_step(session, chosen, numbers[chosen], 1, step + 1)
        seconds = (time.perf_counter() - began) / steps
    results.put((seconds, len(batches), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2048, help="images a measurement")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print("images     batch   seconds an epoch   images/s   peak MB")
    for times in (1, 3, 10):
        for batch_size in (32, 64, 128, 256, 512, 1024):
            results = context.Queue()
            steps = max(2, options.images // batch_size)
            process = context.Process(target=measure, args=(times, batch_size, steps, results))
            process.start()
            seconds, count, peak = results.get()
            process.join()
            print(
                f"{times:2d} × {TRAINING_IMAGES:,}  {batch_size:4d}  {seconds * count:17,.0f}  "
                f"{batch_size / seconds:9,.0f}  {peak / 1e6:8,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
