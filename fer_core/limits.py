"""The page "Limits and use": REFORMS answered from the study's own tables, and what the labels do not support.

Source of the questions: Kapoor et al. 2024, Science Advances 10, eadk3452, table 1. The answers stand in
template/page/limits.md.j2; every number in them is looked up here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fer_core import data
from fer_core.artifacts import Run
from fer_core.data import Faces
from fer_core.schema import counted

FILE = "limits.html"


def machines(records: Iterable[Mapping[str, Any]]) -> str:
    """What trained, by each run's run.json: device, processor, precision and threads, with their runs and hours."""
    found: dict[tuple[str, ...], list[float]] = {}
    for record in records:
        where = record.get("gpu") or record.get("processor") or "unknown processor"
        kind = (str(record.get("device")), str(where), str(record.get("precision")), f"{record.get('threads')} thread")
        cores = int(record.get("threads") or 1) if record.get("device") == "cpu" else 1
        found.setdefault(kind, []).append(cores * float(record.get("seconds", 0)) / 3600)
    lines = []
    for place, hours in sorted(found.items()):
        unit = "core" if place[0] == "cpu" else "GPU"
        lines.append(f"{counted(len(hours), 'run')}, {sum(hours):.1f} {unit} hours: {', '.join(place)}")
    return "; ".join(lines) or "nothing has been trained yet"


def facts(faces: Faces, runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the template needs: sizes of data and splits, copies, machines, how often the test set was scored."""
    split = data.make_split(faces)
    counts = data.class_sizes(faces)
    scored = [row for row in results if row["test_official_accuracy"] not in (None, "")]
    best = max((float(row["test_official_accuracy"]) for row in scored), default=0.0)
    return {
        "images": faces.n,
        "data_hash": faces.data_hash,
        "machines": machines(run.provenance for run in runs),
        "class_counts": ", ".join(f"{name} {n:,}" for name, n in zip(faces.classes, counts, strict=True)),
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
        "leak_free": int(split.leak_free.sum()),
        "leaked": int(len(split.test) - split.leak_free.sum()),
        "low_contrast": len(data.low_contrast(faces)),
        "scored": len({row["training_key"] for row in scored}),
        "wrong": f": every network here is wrong on at least {math.floor(100 * (1 - best)) / 10} of ten test images"
        * bool(scored),
    }
