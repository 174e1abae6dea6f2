"""`make reproduce`: train a page's first run afresh in a scratch folder and compare with what stands.

On the same kind of machine bytes are compared: weights, history, metrics, predictions, and the page outside its
provenance. Elsewhere last bits differ and training drifts apart: then accuracies must agree within the tolerance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import math
import os
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from fer_core import artifacts, build, report
from fer_core.artifacts import Run, Settings, write_json
from fer_core.schema import FerError

PROVENANCE = re.compile(r"<!-- provenance -->.*?<!-- /provenance -->", re.S)


def kind(record: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for the same bits."""
    same = ("code", "device", "precision", "threads", "processor", "gpu")
    return {name: record.get(name) for name in same} | {"torch": (record.get("versions") or {}).get("torch")}


def hashes(run: Run) -> dict[str, str]:
    """SHA-256 of the run's files as they were trained: a ledger says them, else the files do."""
    if "sha256" in run.provenance:
        return run.provenance["sha256"]
    files = [run.folder / name for name in artifacts.RUN_FILES if name != "run.json"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()}


def first_difference(stood: Run, fresh: Run) -> str:
    """The first field that differs, as `history.csv: epoch 3, validation_loss: 1.23 against 1.24`; empty: none does."""
    rows = zip(stood.history.to_dict("records"), fresh.history.to_dict("records"), strict=False)
    for number, (was, now) in enumerate(rows, 1):
        for column, value in was.items():
            if value != now[column] and not (math.isnan(value) and math.isnan(now[column])):
                return f"history.csv: epoch {number}, {column}: {value} against {now[column]}"
    if len(stood.history) != len(fresh.history):
        return f"history.csv: {len(stood.history)} epochs against {len(fresh.history)}"
    before, after = (pd.json_normalize(run.metrics).iloc[0].to_dict() for run in (stood, fresh))
    for field in sorted(map(str, before.keys() | after.keys())):
        if before.get(field) != after.get(field):
            return f"metrics.json: {field}: {before.get(field)} against {after.get(field)}"
    found, expected = hashes(fresh), hashes(stood)
    differing = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    return f"{differing[0]}: its bytes differ" if differing else ""


def first_page_difference(stood: str, fresh: str) -> str:
    """The first cell of a page whose text differs, outside the provenance; empty: none does."""
    was, now = (PROVENANCE.sub("", page).splitlines() for page in (stood, fresh))
    section = "top"
    for one, other in zip(was, now, strict=False):
        heading = re.search(r'<(?:h[23]|section|div) id="([^"]+)"', one)
        section = heading[1] if heading else section
        if one != other:
            place = len(os.path.commonprefix([one, other]))  # noqa: RUF071  (characters are meant)
            there = slice(max(0, place - 30), place + 30)
            return f"section '{section}': …{one[there]}… against …{other[there]}…"
    return "" if len(was) == len(now) else f"{len(was)} lines against {len(now)}"


def compare(stood: Run, fresh: Run, seeds: Sequence[Run] = ()) -> dict[str, Any]:
    """{compared: bytes or tolerance, agrees, difference, kinds that differ, accuracies with their tolerance}.

    `seeds` are the runs that stand of all the page's seeds: their spread is in the tolerance.
    """
    was, now = kind(stood.provenance), kind(fresh.provenance)
    differs = [name for name in was if was[name] != now[name]]
    accuracies = {
        split: {"stood": stood.metrics[split]["accuracy"], "fresh": fresh.metrics[split]["accuracy"], "tolerance": far}
        for split, far in report.tolerance(stood, seeds).items()
        if split in fresh.metrics
    }
    difference = first_difference(stood, fresh)
    within = all(abs(part["stood"] - part["fresh"]) <= part["tolerance"] for part in accuracies.values())
    return {
        "compared": "tolerance" if differs else "bytes",
        "agrees": within if differs else not difference,
        "first_difference": difference,
        "machines_differ_in": differs,
        "accuracy": accuracies,
    }


def reproduce(settings: Settings, name: str, jobs: int) -> int:
    """Train, compare, print, and write the certificate reports/<dataset>/reproduced/<page>.json; the exit status.

    Raises
    ------
    FerError: the page has no finished run that stands, or is not a page with a run of its own.
    """
    page = build.Plan(settings, [name]).pages[name]
    if page.own is None:
        raise FerError(f"{name} trains no run of its own: reproduce a training page, such as 04_complex_cnn/default.")
    stood = page.own.found
    if stood is None:
        raise FerError(f"Nothing stands for {name} yet: make report PAGE={name} first.")
    with tempfile.TemporaryDirectory(prefix="fer-reproduce-") as scratch:
        fresh_settings = dataclasses.replace(settings, out=Path(scratch), afresh=True)
        _share_data(settings, fresh_settings)
        fresh, fresh_page = _train(fresh_settings, name, jobs)
        found = compare(stood, fresh, report.alike([run.found for run in page.results if run.found is not None]))
        found["html"] = _compare_pages(settings, page, fresh_page, found["compared"])
        found["agrees"] = found["agrees"] and not found["html"]["first_difference"]
        certificate = _certificate(name, stood, fresh, found)
    path = settings.reports / "reproduced" / f"{name}.json"
    write_json(path, certificate)
    print(_told(name, certificate))
    print(path)
    return 0 if found["agrees"] else 1


def _share_data(settings: Settings, scratch: Settings) -> None:
    """The parsed images are the same: no second reading of the archive."""
    scratch.store.mkdir(parents=True)
    if (settings.store / "data").exists():
        (scratch.store / "data").symlink_to(settings.store / "data", target_is_directory=True)


def _train(scratch: Settings, name: str, jobs: int) -> tuple[Run, Path]:
    """The page's first run, and its page, made in the scratch folder as make makes them."""
    before = {variable: os.environ.get(variable) for variable in ("FER_OUT", "FER_AFRESH")}
    os.environ |= {"FER_OUT": str(scratch.out), "FER_AFRESH": "1"}
    told = io.StringIO()  # names files that are gone when this ends
    try:
        with contextlib.redirect_stdout(told):
            status = build.build(artifacts.settings(), [name], jobs)
        run = build.Plan(artifacts.settings(), [name]).pages[name].own
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value
    if status or run is None or run.found is None:
        raise FerError(f"{name} could not be trained afresh (status {status}): {told.getvalue().strip()}")
    return run.found, scratch.reports / f"{name}.html"


def _compare_pages(settings: Settings, page: build.PagePlan, fresh: Path, compared: str) -> dict[str, Any]:
    """The page's own HTML against what stands in OUT, where bytes are comparable and the page is there and current."""
    stood = settings.reports / f"{page.name}.html"
    if compared != "bytes":
        why = "made on another kind of machine"
    elif not stood.exists():
        why = "none stands in OUT"
    elif page.reasons:
        why = f"the one that stands is not current ({page.reasons[0]})"
    else:
        difference = first_page_difference(stood.read_text(encoding="utf-8"), fresh.read_text(encoding="utf-8"))
        return {"compared": "yes, outside its provenance", "first_difference": difference}
    return {"compared": f"no: {why}", "first_difference": ""}


def _certificate(name: str, stood: Run, fresh: Run, found: dict[str, Any]) -> dict[str, Any]:
    def told(run: Run) -> dict[str, Any]:
        record = run.provenance
        return {key: record.get(key) for key in ("key", "commit", "clean", "ended", "seconds")} | kind(record)

    return {
        "page": name,
        "identity": fresh.provenance["identity"],
        "data_hash": fresh.provenance["data_hash"],
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "stood": told(stood) | {"sha256": hashes(stood)},
        "fresh": told(fresh) | {"sha256": hashes(fresh)},
        **found,
    }


def _told(name: str, certificate: dict[str, Any]) -> str:
    word = "reproduced" if certificate["agrees"] else "NOT reproduced"
    if certificate["compared"] == "bytes":
        how = "byte by byte, on the same kind of machine"
    else:
        how = f"within the tolerance, since the machines differ in {', '.join(certificate['machines_differ_in'])}"
    lines = [f"{name}: {word}; compared {how}."]
    for split, part in certificate["accuracy"].items():
        off = (part["fresh"] - part["stood"]) * 100
        lines.append(
            f"  {split.replace('_', ' ')}: {part['stood']:.2%} stood, {part['fresh']:.2%} now "
            f"({off:+.2f} points; tolerance {part['tolerance'] * 100:.2f})"
        )
    html = certificate["html"]
    lines.append(f"  page compared: {html['compared']}.")
    for what, first in (("run", certificate["first_difference"]), ("page", html["first_difference"])):
        if first:
            lines.append(f"  first difference of the {what}: {first}")
    return "\n".join(lines)
