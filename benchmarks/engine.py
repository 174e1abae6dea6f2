"""`make bench`: this engine against the loop people write today, in turn (A B A B …) in one run on one machine.

Rows: the usual loop (two DataLoader workers, all threads), the engine alone with all threads, and the engine as
`make all-reports` trains: a run a core, a thread each. On a GPU (DEVICE=) both loops compute there, one run at a time;
that is **untried**: no GPU was at hand. Prints images a second of all cores in use, the ratio to the
usual loop, TFLOP/s from counted multiply-adds (two operations each, forward and twice that backward), and the share of
a matrix product's speed in the precision that the loop computes in, measured in the same run. Drawn images: only speed
is measured here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.usual_loop import IMAGE_SIZE, contenders, plain, settle, usual_epoch
from fer_core import augment, data, devices, explain, training
from fer_core.schema import Params

RECIPE = Params(
    batch_size=64, batch_norm=True, dropout=0.25, dropout_fc=0.5, rotation_degrees=10.0, mirror_probability=0.5
)
OPERATIONS = 6  # a multiply-add is two operations; backward costs twice the forward pass


def engine(name: str, images: int, threads: int, store: str, start: Any = None) -> float:
    """Images a second of the engine's own training step on the network of that name."""
    params, device = resolved(threads)
    faces = data.open_faces(None, Path(store))
    with devices.ready(device, threads):
        session = training.prepare(params, faces, data.make_split(faces), device)
        session.network = contenders()[name].to(device).to(memory_format=torch.channels_last)
        session.optimizer = training._optimizer(session.network, params)
        numbers = augment.draw(params, faces.n, 0, 1, device)[torch.from_numpy(session.train.rows)]
        batches = training._batches(training._order(session, 1, faces.n), params.batch_size)[:-1]
        steps = max(2, images // params.batch_size)
        for step in range(-2, steps):
            if step == 0:
                if start is not None:
                    start.wait()
                settle()
                began = time.perf_counter()
            chosen = batches[step % len(batches)]
            training.train_step(session, chosen, numbers[chosen], 1, step + 2)
        settle()
        return steps * params.batch_size / (time.perf_counter() - began)


def resolved(threads: int) -> tuple[Params, str]:
    """The recipe and the type of device, as DEVICE has it."""
    return devices.resolve(RECIPE.replace(threads=threads), os.environ.get("FER_DEVICE") or "auto")


def _engine_into(results: Any, *arguments: Any) -> None:
    results.put(engine(*arguments))


def side_by_side(name: str, images: int, store: str) -> float:
    """Images a second of as many runs as there are cores, a process and a thread each."""
    context = multiprocessing.get_context("spawn")
    count = devices.cpu_count()
    results, start = context.Queue(), context.Barrier(count)
    runs = [context.Process(target=_engine_into, args=(results, name, images, 1, store, start)) for _ in range(count)]
    for run in runs:
        run.start()
    total = sum(results.get() for _ in runs)
    for run in runs:
        run.join()
    return total


def matmul_peak(threads: int, precision: str, device: str) -> float:
    """Operations a second of a square matrix product in that precision, the best of five."""
    torch.set_num_threads(threads)
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, dtype=getattr(torch, precision), device=device)
    best = min(_seconds(lambda: a @ a) for _ in range(5))
    return 2 * side**3 / best


def _seconds(work: Any) -> float:
    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1280, help="images a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn")
    options = parser.parse_args()
    cores = devices.cpu_count()
    params, device = resolved(cores)
    precision, machine = params.precision, devices.describe(device)
    peaks = {name: matmul_peak(cores, name, device) for name in ("float32", precision)}
    print(f"{machine['gpu'] or machine['processor']}, {cores} cores, torch {torch.__version__}")
    print(f"The usual loop computes in float32, the engine in {precision}.")
    for name, found in peaks.items():
        print(f"matrix product, {name}, {cores} threads: {found / 1e9:,.0f} GFLOP/s")
    print("network      loop                 images/s  ratio  TFLOP/s  of peak")
    with tempfile.TemporaryDirectory() as store:
        faces = data.open_faces(None, Path(store))
        pixels = [" ".join(map(str, image.ravel())) for image in faces.images[:1024]]
        labels = faces.labels[:1024].tolist()
        for name, network in contenders().items():
            cost = OPERATIONS * explain.multiply_adds(network, IMAGE_SIZE, 1)
            loops = {
                "usual": lambda network=network: usual_epoch(plain(network), pixels, labels, options.images, device),
                f"engine, {cores} threads": lambda name=name: engine(name, options.images, cores, store),
            }
            if device == "cpu":
                loops[f"engine, {cores} runs"] = lambda name=name: side_by_side(name, options.images, store)
            measured: dict[str, list[float]] = {loop: [] for loop in loops}
            for _ in range(options.rounds):
                for loop, work in loops.items():
                    measured[loop].append(work())
            usual = statistics.median(measured["usual"])
            for loop, speeds in measured.items():
                speed = statistics.median(speeds)
                peak = peaks["float32" if loop == "usual" else precision]
                print(
                    f"{name:12} {loop:20} {speed:8,.0f}  {speed / usual:4.1f}×  {speed * cost / 1e12:7.3f}  "
                    f"{speed * cost / peak:6.0%}   ({min(speeds):,.0f} to {max(speeds):,.0f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
