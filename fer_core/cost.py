"""What training costs in time, from the seconds that finished runs have recorded, by the type of device they ran on.

Nothing is extrapolated from one type of device to another: what has no run says that it was not measured.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_core.artifacts import FINISHED, read_json
from fer_core.schema import DEFAULTS, Params

WORKERS = (1, 8, 64)
UNITS = {"cpu": "core", "cuda": "GPU", "mps": "GPU"}
Kind = tuple[str, float, bool]  # network, width, BatchNorm: what an epoch's time mostly depends on


@dataclass(frozen=True)
class Timed:
    """A finished run: `seconds` of one core or GPU, and of an epoch over all training images."""

    identity: str
    device: str
    machine: str
    kind: Kind
    seconds: float
    epoch_seconds: float


class Clock:
    """The finished runs of one data set in several folders, one of which may stand in two of them."""

    def __init__(self, shelves: Iterable[Path], data_hash: str) -> None:
        self.runs: dict[str, Timed] = {}
        for file in (file for shelf in shelves for file in sorted(shelf.glob("*/run.json"))):
            record = read_json(file) or {}
            epochs = (read_json(file.with_name("metrics.json")) or {}).get("epochs")
            if record.get("state") in FINISHED and record.get("data_hash") == data_hash and epochs:
                self.runs.setdefault(record.get("key", file.parent.name), _timed(record, epochs))

    @cached_property
    def _epochs(self) -> dict[tuple[str, Kind], float]:
        """Seconds an epoch over all training images, by device and kind: the median, since runs are slowed by what ran
        beside them.
        """
        found: dict[tuple[str, Kind], list[float]] = {}
        for run in self.runs.values():
            found.setdefault((run.device, run.kind), []).append(run.epoch_seconds)
        return {kind: statistics.median(costs) for kind, costs in found.items()}

    @cached_property
    def _measured(self) -> dict[tuple[str, str], float]:
        return {(run.identity, run.device): run.seconds for run in self.runs.values()}

    def epoch(self, params: Params, device: str) -> float | None:
        """Seconds an epoch takes there, by runs of the same network, width and BatchNorm; None: not measured."""
        cost = self._epochs.get((device, _kind(vars(params))))
        return None if cost is None else cost * params.train_fraction

    def whole(self, params: Params, identity: str, device: str) -> float | None:
        """Seconds of the whole run: its own where it was trained there, else all its epochs; None: not measured."""
        epoch = self.epoch(params, device)
        return self._measured.get((identity, device), epoch and epoch * params.epochs)

    def machines(self, device: str) -> str:
        return ", ".join(sorted({run.machine for run in self.runs.values() if run.device == device}))


def _kind(values: dict[str, Any]) -> Kind:
    network, width, batch_norm = (values.get(n, getattr(DEFAULTS, n)) for n in ("network", "width", "batch_norm"))
    return network, float(width), batch_norm


def _timed(record: dict[str, Any], epochs: int) -> Timed:
    device, values = record["device"], record["parameters"]
    seconds = record["seconds"] * (record.get("threads", 1) if device == "cpu" else 1)
    machine = (record.get("processor") if device == "cpu" else record.get("gpu")) or "a machine without a name"
    share = values.get("train_fraction", DEFAULTS.train_fraction)
    return Timed(record["identity"], device, machine, _kind(values), seconds, seconds / epochs / share)


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last of the runs ends if each free worker takes the longest left (Graham 1969: ≤ 4/3 of the best)."""
    free = [0.0] * workers
    for cost in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def describe(
    clock: Clock, runs: list[tuple[Params, str]], cores: int, price: float | None = None, what: str = "The whole study"
) -> list[str]:
    """Lines for `make plan`: hours of training on 1, 8 and 64 workers of each type of device, with a price if given.

    Parameters
    ----------
    runs : parameters and identity of each
    cores : another number of CPU workers to name, this machine's
    price : of an hour of one core or GPU; all workers are paid for until the last run ends
    """
    lines = [f"{what} is {len(runs)} runs; training them all, by measured seconds, longest first:"]
    for device, unit in UNITS.items():
        known = [cost for params, identity in runs if (cost := clock.whole(params, identity, device)) is not None]
        if not known:
            lines += [f"  {device}: not measured"] if device != "mps" else []
            continue
        spans = []
        for workers in sorted({*WORKERS, cores} if device == "cpu" else WORKERS):
            hours = makespan(known, workers) / 3600
            paid = f" (costs {hours * workers * price:,.2f})" if price is not None else ""
            spans.append(f"{_span(hours)} on {workers}{paid}")
        rest = len(runs) - len(known)
        unmeasured = f"; without {rest} runs of networks not measured on it" if rest else ""
        total = _span(sum(known) / 3600).replace(" ", f" {unit} ")
        lines.append(f"  {device} ({clock.machines(device)}): {total}: {', '.join(spans)}{unmeasured}")
    return lines


def _span(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
