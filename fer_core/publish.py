"""What others may read and go on from: `make publish` writes reports/published/, `make import` takes finished runs in.

The ledger under reports/published/<dataset>/runs/ holds every finished run by its identity (parameters and data): small
files always, predictions in half precision for the first seeds of training pages. Pages are rendered anew from their
executed notebooks, without single faces and without any picture that does not say it is harmless.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from fer_core import artifacts, build, devices, leaderboard, limits, report, reproduce, schema
from fer_core.artifacts import Run, Settings, digest, read_json, write_bytes, write_json
from fer_core.schema import DEFAULTS, PACKAGE, ROOT, FerError, Params

PAGE_BYTES = 300_000
ALL_BYTES = 15_000_000
PAGE_FILES = ("history.csv", "metrics.json", "network.csv")
LEDGER_FILES = (*PAGE_FILES, artifacts.WATCHED_FILE, *artifacts.DERIVED_FILES)


def _refuse(settings: Settings) -> None:
    if settings.sample:
        raise FerError("The drawn sample is not published: say DATA=path/to/fer2013.")
    if settings.set_values:
        raise FerError("SET is not published: its values stand in no file that others have; put them into a YAML.")
    if not report.git("rev-parse", "HEAD"):
        raise FerError("Publishing needs a git checkout, since every page names its commit.")
    changed = report.git("status", "--porcelain", "--", *report.COMMITTED)
    if changed:
        first = changed.splitlines()[0].split()[-1]
        raise FerError(f"{first} and perhaps more is not committed: commit fer_core, notebooks and params first.")


# -------------------------------------------------------------------------------------------------------------- ledger


def _predictions_in_half(run: Run) -> bytes:
    frame = run.predictions
    frame = frame.astype({name: "float16" for name in frame.columns if name.startswith("p_")})
    return frame.to_parquet(None, index=False, compression="zstd", compression_level=19)


def export_run(run: Run, identity: str, shelf: Path, whole: bool) -> None:
    """Put a finished run on the ledger; `whole` with predictions. run.json comes last and makes it count.

    Weights stay behind: what pages need of them is among the derived files.

    run.json gains `sha256`: of the run's files as they were trained, which `make reproduce` compares with.
    """
    folder = shelf / identity
    if run.folder != folder and (read_json(folder / "run.json") or {}).get("key") != run.key:
        shutil.rmtree(folder, ignore_errors=True)  # nothing of another training may lie beside this one
    record = report.without_machine(run.provenance)
    trained = "sha256" not in record  # else it came from a ledger itself: nothing here is as it was trained
    if trained:
        record["sha256"] = reproduce.hashes(run)
    for name in (*LEDGER_FILES, *["predictions.parquet"] * whole) if run.folder != folder else ():
        file = run.folder / name
        if file.exists():
            halved = trained and name == "predictions.parquet"
            write_bytes(folder / name, _predictions_in_half(run) if halved else file.read_bytes())
    write_json(folder / "run.json", record)


# --------------------------------------------------------------------------------------------------------------- pages


def _without_faces(folder: Path) -> Any:
    """The executed notebook in a page's folder, single faces withheld."""
    import nbformat

    return report.withhold_faces(nbformat.read(folder / "notebook.ipynb", 4))


def _write_page(target: Path, notebook: Any, context: report.PageContext, files: dict[str, bytes]) -> int:
    """A page that does not name the machine, in place of what stood there; returns its size in bytes."""
    told = report.without_machine(context.provenance)
    rendered = report.render(notebook, dataclasses.replace(context, provenance=told)).encode()
    shutil.rmtree(target / context.name, ignore_errors=True)
    for name, content in files.items():
        write_bytes(target / context.name / name, content)
    write_bytes(target / f"{context.name}.html", rendered)
    return len(rendered)


def _published_page(
    plan: build.Plan, page: build.PagePlan, neighbours: tuple[str | None, str | None], target: Path
) -> list[str]:
    """Write one page, with its small files, from its executed notebook; returns what the reader should know."""
    folder = plan.settings.reports / page.name
    notebook = _without_faces(folder)
    runs = [run.found for run in build.drawn_on(plan, page.name) if run.found is not None]
    own = page.own.found if page.own else None
    files = {name: (folder / name).read_bytes() for name in PAGE_FILES if own and (folder / name).exists()}
    files |= report.figure_files(notebook)
    made = read_json(folder / "page.json")["made"]
    context = report.page_context(
        page.page, page.params, plan.settings, runs, own, notebook, neighbours, tuple(files), made, page.inputs
    )
    context = dataclasses.replace(context, ledger=_on_the_ledger(plan, page))
    size = _write_page(target, notebook, context, files)
    over = size > PAGE_BYTES
    return [f"{page.name} is {size / 1e3:.0f} kB, more than the {PAGE_BYTES / 1e3:.0f} it may be"] * over


def _on_the_ledger(plan: build.Plan, page: build.PagePlan) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """The page's runs with the folders and files that hold them, as its links say."""
    found = []
    for arm, runs in page.arms.items():
        for run in runs:
            folder = plan.settings.ledger / run.wanted.identity
            names = tuple(sorted(file.name for file in folder.iterdir()))
            found.append((f"{arm}, seed {run.params.seed}", f"../runs/{folder.name}", names))
    return tuple(found)


def _published_comparisons(plan: build.Plan, target: Path) -> list[dict[str, str]]:
    """The pages that set runs side by side, without faces, with the answers that differ and what figures plot."""
    from fer_core import compare

    reports, standing = plan.settings.reports, build.compare_study(plan)
    shutil.rmtree(target / "compare", ignore_errors=True)
    for name, pages in standing.items():
        notebook = _without_faces(reports / name)
        files = {file.name: file.read_bytes() for file in sorted((reports / name).glob("answers*.csv"))}
        files |= report.figure_files(notebook)
        context = compare.context(build.compared_sides(plan, pages), plan.settings, tuple(files), bool(plan.own))
        _write_page(target, notebook, context, files)
    return report.comparisons(reports, standing)


def _published_sweeps(reports: Path, names: list[str], target: Path) -> list[dict[str, str]]:
    """The sweeps' pages as they are: they show no face and name no machine. One whose base page is not published is
    left out; one that another machine published stays.
    """
    for record in sorted(reports.glob("sweeps/*/sweep.json")):
        for file in (record, record.with_name("trials.csv"), report.page_file(record.parent)):
            write_bytes(target / file.relative_to(reports), file.read_bytes())
    for record in sorted(target.glob("sweeps/*/sweep.json")):
        if read_json(record)["page"] not in names:
            shutil.rmtree(record.parent)
            report.page_file(record.parent).unlink(missing_ok=True)
    return report.sweeps(target)


def _publish_index(plan: build.Plan, left_out: dict[str, str], target: Path) -> None:
    """Comparisons and sweeps, results.csv, claims.csv, and the index; what is not published is missing there."""
    compared = _published_comparisons(plan, target)
    swept = _published_sweeps(plan.settings.reports, [name for name in plan.pages if name not in left_out], target)
    missing = {"state": "missing", "href": None, "finding": ""}
    pages = plan.pages.values()
    entries = [build.entry(page, plan, left_out) | (missing if page.name in left_out else {}) for page in pages]
    for name, content in build.tables(plan, entries, compared, swept).items():
        write_bytes(target / name, content)


def publish(settings: Settings) -> int:
    """Write reports/published/<dataset>/ anew from what is finished and current; returns the exit status.

    Raises
    ------
    FerError: the data is the sample, SET is in force, something that bears on the figures is not committed, or what
    would be published is larger than it may be.
    """
    _refuse(settings)
    plan = build.Plan(settings, ())  # nothing will be trained: what stands now counts
    if settings.name == "fer2013" and not plan.fer2013:
        raise FerError("These are not FER2013's images, and fer2013 is its study's name: say NAME=, another one.")
    target = settings.ledger.parent
    left_out = {page.name: "; ".join(page.reasons) for page in plan.pages.values() if page.reasons}
    runs = export_ledger(plan, settings.ledger)
    notes: list[str] = []
    current = [page for page in plan.pages.values() if page.name not in left_out]
    neighbours = schema.neighbours([page.name for page in current])  # of those published: no link leads nowhere
    for page in plan.pages.values():
        if page.name in left_out:  # what stood there before would say something that is no longer so
            (target / f"{page.name}.html").unlink(missing_ok=True)
            shutil.rmtree(target / page.name, ignore_errors=True)
        else:
            notes += _published_page(plan, page, neighbours[page.name], target)
    _publish_index(plan, left_out, target)
    if (certificates := settings.reports / "reproduced").is_dir():
        shutil.copytree(certificates, target / "reproduced", dirs_exist_ok=True)
    _publish_model(plan, [page.name for page in current], target / "model")
    if settings.name == "fer2013":
        _write_readme(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    for note in notes:
        print(note)
    print(f"{len(current)} pages, {runs} runs, {size / 1e6:.1f} MB: {target.relative_to(ROOT)}/index.html")
    if notes or size > ALL_BYTES:
        raise FerError(
            f"{target.name} is {size / 1e6:.1f} MB, of {ALL_BYTES / 1e6:.0f} allowed, or a page is too large."
        )
    return 0


def export_ledger(plan: build.Plan, shelf: Path) -> int:
    """Every finished run of the plan's pages onto the ledger; returns how many lie there."""
    whole = {page.own.wanted.identity for page in plan.pages.values() if page.own is not None}
    wanted = {run.wanted.identity: run.found for page in plan.pages.values() for run in page.runs if run.found}
    for identity, run in wanted.items():
        export_run(run, identity, shelf, identity in whole)
    return len(list(shelf.glob("*/run.json")))


def _publish_model(plan: build.Plan, names: list[str], folder: Path) -> None:
    """The network for `make predict`: the final model, or before there is one the page that validates best.

    A run that came from a ledger itself has no weights: what stands in the folder stays.
    """
    from fer_core import predict

    rows = [row for row in build.results(plan) if row["page"] in names]
    name = leaderboard.final_page(rows) or leaderboard.best_page(rows)
    run = plan.pages[name].runs[0].found if name else None
    if name and run and run.state == "done" and "sha256" not in run.provenance:
        faces = build.data.open_faces(plan.settings.data, plan.settings.store)
        predict.write_model(run, folder, faces, name)


RESULTS = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.S)


def readme_results(folder: Path) -> str:
    """README's results, of what a published folder holds: what was found, pages linked, and what it was made by."""
    results, claims = (_rows(folder / name) for name in ("results.csv", "claims.csv"))
    text = "\n\n".join(leaderboard.findings(results, claims)).replace("\u00a0", " ")
    where = folder.relative_to(ROOT).as_posix()

    def linked(name: re.Match[str]) -> str:
        """A page that is not published yet keeps its name."""
        shown = leaderboard.shown_name(name[1])
        return f"[{shown.strip('`')}]({where}/{name[1]}.html)" if (folder / f"{name[1]}.html").exists() else shown

    made = limits.machines(read_json(path) or {} for path in sorted(folder.glob("runs/*/run.json")))
    return re.sub(r"`(\d\d_\w+/\w+)`", linked, text) + f"\n\nTrained in {made}.\n"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write_readme(folder: Path) -> None:
    readme = ROOT / "README.md"
    text, results = readme.read_text(encoding="utf-8"), readme_results(folder)
    if not RESULTS.search(text):
        raise FerError("README.md has lost the marks <!-- results --> and <!-- /results --> around its results.")
    write_bytes(readme, RESULTS.sub(lambda mark: mark[1] + results + mark[2], text).encode())


# -------------------------------------------------------------------------------------------------------------- import


def import_runs(source: Path, settings: Settings) -> int:
    """Take in the finished runs of another machine: its OUT, its run store, or a published folder; the exit status.

    Raises
    ------
    FerError: no run store there, or none of its runs is of this data.
    """
    records = sorted(source.rglob("run.json")) if source.is_dir() else []
    shelf = settings.store / "imported"
    data_hash = build.data.data_hash(settings.data, settings.store)
    refused = []
    offered: dict[str, list[Path]] = {}
    for path in records:
        record = read_json(path)
        why = _fault(path.parent, record, data_hash)
        if why:
            refused.append(f"{path.parent.relative_to(source)}: {why}")
        else:
            offered.setdefault(record["identity"], []).append(path.parent)
    stated = {name: value for name, value in settings.set_values.items() if name == "precision"}
    here = devices.resolve(DEFAULTS.replace(**stated), settings.device)
    best = {identity: max(folders, key=lambda folder: _fit(folder, *here)) for identity, folders in offered.items()}
    told = Counter(_take(folder, shelf / identity, *here) for identity, folder in best.items())
    for line in refused:
        print(f"not taken: {line}")
    if not records:
        raise FerError(f"{source} holds no runs: FROM= takes another machine's OUT, or a folder made by make publish.")
    if not best:
        raise FerError(
            f"None of the {len(records)} runs in {source} can be used here: {refused[0].partition(': ')[2]}."
        )
    nearer = f", {told[NEARER]} stand back for trainings {NEARER}" if told[NEARER] else ""
    print(
        f"{told[TAKEN]} runs taken in, {told[HERE]} were here already{nearer}; make plan says which pages they serve."
    )
    return 0


def _fault(folder: Path, record: Any, data_hash: str) -> str:
    """Why a run cannot be taken in; empty where it can."""
    import pandas as pd

    needed = ("identity", "parameters", "data_hash", "state", "key", "code", "device", "precision", "threads")
    if not isinstance(record, dict) or any(name not in record for name in needed):
        return "its run.json is not whole"
    if record["state"] not in artifacts.FINISHED:
        return f"it is not finished ({record['state']})"
    if record["data_hash"] != data_hash:
        return f"it was trained on other data ({record['data_hash']}, here {data_hash})"
    if digest([record["parameters"], record["data_hash"]]) != record["identity"]:
        return "its parameters do not match its identity"
    try:
        columns = list(pd.read_csv(folder / "history.csv").columns)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        return f"{type(fault).__name__} in its history or metrics"
    if columns != list(artifacts.HISTORY_COLUMNS) or "validation" not in metrics:
        return "its history or metrics lack columns"
    return ""


def _files(folder: Path) -> list[str]:
    return [name for name in (*report.COPIED, *artifacts.DERIVED_FILES) if (folder / name).exists()]


def _fit(folder: Path, params: Params, device: str) -> tuple[int, int]:
    """How near a training of the same parameters is to one made here (code, device, precision), and how whole."""
    record = read_json(folder / "run.json") or {}
    network = (record.get("parameters") or {}).get("network", DEFAULTS.network)
    alike = [record.get("device") == device, record.get("precision") == params.precision]
    if (PACKAGE / "networks" / f"{network}.py").exists():
        alike.append(record.get("code") == artifacts.training_fingerprint(network))
    return sum(alike), len(_files(folder))


TAKEN, HERE, NEARER = "taken in", "here already", "that are nearer to what would be made here"


def _take(folder: Path, target: Path, params: Params, device: str) -> str:
    """Copy a run's files, run.json last, unless what is here is as good. Files of two trainings are not mixed."""
    stood, new = (read_json(place / "run.json") or {} for place in (target, folder))
    names = _files(folder)
    if stood and stood.get("key") == new.get("key"):
        names = [name for name in names if not (target / name).exists()]
    elif stood and _fit(target, params, device) >= _fit(folder, params, device):
        return NEARER
    else:
        shutil.rmtree(target, ignore_errors=True)
    for name in sorted(names, key=lambda name: name == "run.json"):
        write_bytes(target / name, (folder / name).read_bytes())
    return TAKEN if names else HERE
