"""The first cell of every notebook: on Colab and Kaggle it brings this package and chooses OUT; elsewhere it is inert.

The cell is generated (`python -m fer_core bootstrap --write`; a test holds notebooks and generator together) and does
only what must come before this package can be imported; `prepare` does the rest. The host's torch, torchvision and
numpy, built for its GPU and for each other, are never touched. The study does not see the cell: `schema.read_notebook`
leaves it out, so that no page and no key depends on it. Imports nothing but the standard library and `schema`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from fer_core.schema import BOOTSTRAP, ROOT, FerError

HEAVY = ("torch", "torchvision", "numpy")  # the host's own: neither installed nor replaced
NOT_NEEDED = ("jupyterlab",)  # the host is one
FOLDERS = {"kaggle": Path("/kaggle/working"), "colab": Path("/content/drive/MyDrive/fer")}
DRIVE = Path("/content/drive")
CELL = """\
#@title On Colab or Kaggle run this first; elsewhere it does nothing (made by fer_core/bootstrap.py)
import glob, importlib.util, os, subprocess, sys

host = "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else ""  # asked first: Kaggle's image is made of Colab's
if not host and importlib.util.find_spec("google") and importlib.util.find_spec("google.colab"):
    host = "colab"
if host:
    if not importlib.util.find_spec("fer_core"):
        wheels = sorted(glob.glob("fer_core-*.whl") + glob.glob("/kaggle/input/**/fer_core-*.whl", recursive=True))
        package = os.environ.get("FER_PACKAGE") or {address}next(iter(wheels[::-1]), None)
        if not package:
            raise SystemExit("No fer_core-*.whl here: upload one (made by pip wheel --no-deps .) or set FER_PACKAGE.")
        # --no-deps: torch, torchvision and numpy stay the host's own
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", package], check=True)
        importlib.invalidate_caches()
    from fer_core import bootstrap

    bootstrap.prepare(host)
"""


def cell(address: str = "") -> dict[str, Any]:
    """The notebook cell. `address` is the repository's, as pip takes it; without it only a wheel can be installed."""
    source = CELL.format(address=f"{address!r} or " if address else "")
    # cellView is Colab's, source_hidden JupyterLab's: the code is folded away in both.
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": [BOOTSTRAP]}
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": BOOTSTRAP,
        "metadata": hidden,
        "outputs": [],
        "source": source.rstrip("\n").splitlines(keepends=True),
    }


def repository() -> str:
    """The address in pyproject.toml ([project.urls] Repository) as pip takes it; empty where there is none."""
    file = ROOT / "pyproject.toml"
    urls = tomllib.loads(file.read_text(encoding="utf-8"))["project"].get("urls", {}) if file.exists() else {}
    return f"git+{urls['Repository']}" if urls.get("Repository") else ""


def write(notebook: Path) -> bool:
    """Put the cell on top of a notebook, in place of one that is there; whether that changed the file."""
    before = notebook.read_text(encoding="utf-8")
    found = json.loads(before)
    others = [c for c in found["cells"] if BOOTSTRAP not in c.get("metadata", {}).get("tags", [])]
    found["cells"] = [cell(repository()), *others]
    after = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if after != before:
        notebook.write_text(after, encoding="utf-8")
    return after != before


# ---------------------------------------------------------------------------------------------------- on such a machine


def missing() -> list[str]:
    """What this package asks for and the host has not, as pip takes it; never the host's own torch and numpy."""
    needed = []
    for requirement in metadata.requires("fer-core") or []:
        name = re.split(r"[<>=!~ ;\[]", requirement)[0]
        if "extra ==" in requirement or name.lower() in (*HEAVY, *NOT_NEEDED):
            continue
        try:
            metadata.version(name)  # an older one than we ask for stays: others on the host may want just that
        except metadata.PackageNotFoundError:
            needed.append(requirement)
    return needed


def install(requirements: list[str], folder: Path) -> None:
    """Install them and what they need themselves, with the host's torch, torchvision and numpy held where they are."""
    held = folder / "held.txt"
    installed = {found.name.lower(): found.version for found in metadata.distributions()}
    lines = [f"{name}=={installed[name]}\n" for name in HEAVY if name in installed]
    held.write_text("".join(lines), encoding="utf-8")
    words = [sys.executable, "-m", "pip", "install", "-q", "--constraint", str(held), *requirements]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        names = ", ".join(re.split(r"[<>=!~ ;\[]", requirement)[0] for requirement in requirements)
        raise FerError(f"pip could not install {names}: is this machine's Internet on? {done.stderr.strip()[-300:]}")
    importlib.invalidate_caches()


def prepare(host: str) -> None:
    """Install what is missing, and put OUT where it outlives the machine: Drive, or Kaggle's working folder.

    Parameters
    ----------
    host : "colab" or "kaggle"

    Raises
    ------
    FerError: pip failed.
    """
    if host == "colab":
        importlib.import_module("google.colab.drive").mount(str(DRIVE))
    out = Path(os.environ.setdefault("FER_OUT", str(FOLDERS[host])))
    out.mkdir(parents=True, exist_ok=True)
    if needed := missing():
        with tempfile.TemporaryDirectory() as folder:
            install(needed, Path(folder))
    print(f"fer_core {metadata.version('fer-core')} is ready; reports and runs go to {out}.")
