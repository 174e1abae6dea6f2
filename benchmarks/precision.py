"""What bfloat16 costs in accuracy: one page's runs in float32 and in bfloat16, seed by seed.

`FER_DATA=… python -m benchmarks.precision` trains what FER_OUT does not hold yet (it may be killed and goes on), a run
a core, and writes benchmarks/precision.csv, a row a run, with the machine, and precision_difference.csv, the mean
difference with its 95 % interval over seeds; `--again` computes that from the table that stands. A seed is the same
images in the same order from the same weights in both, so that differences are taken seed by seed. Where the processor
has no bfloat16, oneDNN rounds to it and adds up in float32, as the hardware does: that answers for accuracy, not for
speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd

from fer_core import artifacts, data, devices, evaluation, training
from fer_core.schema import ROOT, load_page, resolve_page

TABLE = ROOT / "benchmarks" / "precision.csv"
SUMMARY = ROOT / "benchmarks" / "precision_difference.csv"
PRECISIONS = ("float32", "bfloat16")


def measure(page: str, seed: int, precision: str) -> dict[str, Any]:
    """A row of the table: the run is loaded or trained."""
    # A ledger's run stands in for any precision: here only the one that is asked for will do.
    settings = dataclasses.replace(artifacts.settings(), afresh=True)
    params = resolve_page(load_page(page), settings.sample).replace(seed=seed, precision=precision, threads=1)
    run = training.train_or_load(params, settings, data.open_faces(settings.data, settings.store))
    record = run.provenance
    return {
        "data": settings.name,
        "page": page,
        "seed": seed,
        "precision": record["precision"],
        "in_hardware": precision == "float32" or devices._bfloat16_in_hardware(),
        "validation_accuracy": run.metrics["validation"]["accuracy"],
        "epochs": len(run.history),
        "device": record["device"],
        "processor": record["processor"],
        "cores": record["cores"],
        "threads": record["threads"],
        "torch": record["versions"]["torch"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", default="03_dropout/default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="train nothing: the difference in the table that stands")
    options = parser.parse_args()
    if options.again:
        print(difference(pd.read_csv(TABLE)))
        return
    asked = [(options.page, seed, precision) for seed in range(options.seeds) for precision in PRECISIONS]
    with ProcessPoolExecutor(devices.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        table = pd.DataFrame(pool.map(measure, *zip(*asked, strict=True)))
    table.to_csv(TABLE, index=False, lineterminator="\n")
    print(table.to_string(index=False))
    print(difference(table))


def difference(table: pd.DataFrame) -> str:
    """bfloat16 minus float32 over seeds, in words; written beside the table too."""
    by_seed = table.pivot(index="seed", columns="precision", values="validation_accuracy")
    found = evaluation.mean_interval(by_seed.bfloat16 - by_seed.float32)
    fields = {"of": "bfloat16 minus float32, validation_accuracy", **found._asdict()}
    pd.DataFrame([fields]).to_csv(SUMMARY, index=False, lineterminator="\n")
    return (
        f"bfloat16 minus float32, validation accuracy: {100 * found.value:+.2f} points "
        f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}], {found.n} seeds"
    )


if __name__ == "__main__":
    main()
