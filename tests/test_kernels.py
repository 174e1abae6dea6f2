"""Forked kernels are like fresh ones, hold no secret, and end with whoever started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from fer_core import artifacts, build, kernels, report, schema
from fer_core.artifacts import Settings
from fer_core.schema import ROOT

linux = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

# What a page could see of its kernel. Read before anything is imported that the page itself would import later.
STATE = """
import json, locale, logging, os, re, signal, sys, warnings
state = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
state["signals"] = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
state["argv"] = [os.path.basename(sys.argv[0]), sys.argv[1], len(sys.argv)]
state["place"] = [sys.path, os.getcwd(), os.getpgid(0) == os.getpid(), locale.getlocale()]
state["cell"] = [__name__, get_ipython().execution_count, sorted(name for name in globals() if name[0] != "_")]
state["logging"] = [str(type(handler)) for handler in logging.root.handlers]
import matplotlib, numpy, pandas
from fer_core import notebook
warnings.simplefilter("ignore")
options = re.findall(r"^([a-z_]+[.][a-z_.]+) :", pandas.describe_option("", _print_desc=False), re.M)
state["pandas"] = {name: str(pandas.get_option(name)) for name in options}
state["matplotlib"] = {name: str(value) for name, value in matplotlib.rcParams.items()}
state["backend"] = matplotlib.get_backend()
state["numpy"] = str(numpy.get_printoptions())
print(json.dumps(state))
"""
TORCH = """
import torch
from fer_core import training
print(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
      torch.are_deterministic_algorithms_enabled(), torch.__config__.parallel_info())
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As workers have it: a zygote forks only while it has a single thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in build.ONE_THREAD.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def zygote() -> Iterator[kernels.Zygote]:
    started = kernels.Zygote()
    yield started
    started.close()


@pytest.fixture
def environment(place: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    told = report.kernel_environment("01_basic_cnn/default", place)
    Path(told["IPYTHONDIR"]).mkdir(parents=True)
    return told


def test_a_key_in_the_environment_reaches_no_kernel_and_leaves_it_offline(
    place: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://me:a-secret@wandb.lab:8080")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    told = report.kernel_environment("01_basic_cnn/default", place)
    assert (told["WANDB_MODE"], told["WANDB_BASE_URL"]) == ("online", "http://wandb.lab:8080")  # netrc may hold a key
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    told = report.kernel_environment("01_basic_cnn/default", place)
    assert told["WANDB_MODE"] == "offline" and not any("a-secret" in value for value in told.values())


def printed(source: str, environment: dict[str, str], zygote: kernels.Zygote | None, torch: bool = False) -> str:
    """What a cell prints in a kernel of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with tempfile.TemporaryDirectory() as folder:
        manager = kernels.manager(dict(environment), Path(folder), zygote, torch)
        NotebookClient(
            notebook, kernel_name="python3", kernel_manager_class=manager, shutdown_kernel="immediate"
        ).execute()
    return "".join(output.text for output in notebook.cells[0].outputs)


def differing(fresh: Any, forked: Any) -> dict[tuple[str, ...], tuple[Any, Any]]:
    """What differs, one level down, so that a failure names it."""
    flat = [
        {(name, *more): one for name, value in state.items() for more, one in entries(value)}
        for state in (fresh, forked)
    ]
    pairs = {name: (flat[0].get(name), flat[1].get(name)) for name in {*flat[0], *flat[1]}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def entries(value: Any) -> list[tuple[tuple[str, ...], Any]]:
    return [((name,), one) for name, one in value.items()] if isinstance(value, dict) else [((), value)]


@linux
def test_a_forked_kernel_is_in_the_state_of_a_fresh_one(environment: dict[str, str], zygote: kernels.Zygote) -> None:
    fresh, forked = (json.loads(printed(STATE, environment, source)) for source in (None, zygote))
    assert len(fresh["pandas"]) > 40
    assert differing(fresh, forked) == {}
    assert zygote.process is not None


@linux
@pytest.mark.slow
def test_torch_in_a_forked_kernel_is_in_the_state_of_a_fresh_one(
    environment: dict[str, str], zygote: kernels.Zygote
) -> None:
    assert printed(TORCH, environment, zygote, torch=True) == printed(TORCH, environment, None)


@linux
def test_forked_kernels_share_no_chance_and_no_names(environment: dict[str, str], zygote: kernels.Zygote) -> None:
    chance = "import numpy, random\nprint(numpy.random.random(), random.random(), 'left' in globals())\nleft = 1"
    one, two = (printed(chance, environment, zygote).split() for _ in range(2))
    assert one[0] != two[0] and one[1] != two[1]
    assert one[2] == two[2] == "False"


@linux
def test_no_secret_reaches_the_zygote_or_its_kernels(environment: dict[str, str], zygote: kernels.Zygote) -> None:
    source = "import os\nfrom pathlib import Path\nprint(Path('/proc/self/environ').read_bytes(), dict(os.environ))"
    assert "a-secret" not in printed(source, environment, zygote)
    assert zygote.process is not None
    assert b"a-secret" not in Path(f"/proc/{zygote.process.pid}/environ").read_bytes()


@linux
def test_a_kernel_whose_folder_has_too_long_a_path_for_sockets_answers_too(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="fer-" + "x" * 90) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert printed("print(1)", environment, None) == "1\n"


@linux
def test_a_dead_kernel_is_told_with_its_signal(environment: dict[str, str], zygote: kernels.Zygote) -> None:
    from nbclient.exceptions import DeadKernelError

    with pytest.raises(DeadKernelError):
        printed("import os\nos.kill(os.getpid(), 9)", environment, zygote)
    assert printed("print(1)", environment, zygote) == "1\n"  # the next kernel is none the worse


def test_where_forking_fails_a_fresh_kernel_is_started(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = kernels.Zygote()
    broken.usable = True
    monkeypatch.setattr(kernels.Zygote, "ask", lambda *_: None)
    monkeypatch.setattr(kernels.subprocess, "Popen", lambda *_, **__: None)
    assert broken.fork(["-f", "kernel.json"], environment, False) is None
    monkeypatch.undo()
    assert printed("import os\nprint(os.getppid())", environment, broken) == f"{os.getpid()}\n"


@pytest.mark.parametrize(("platform", "kind"), [("win32", "forked"), ("darwin", "forked"), ("linux", "fresh")])
def test_nothing_is_forked_where_it_is_not_safe_or_not_wanted(
    platform: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("FER_KERNELS", kind)
    assert kernels.Zygote().fork(["-f", "kernel.json"], {}, True) is None


PARENT = """
import sys, time
from fer_core import artifacts, kernels, report
from pathlib import Path

told = report.kernel_environment("01_basic_cnn/default", artifacts.settings())
zygote = kernels.Zygote()
forked = zygote.fork(["-f", str(Path(sys.argv[1]) / "kernel.json")], told, False)
print(zygote.process.pid, forked.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except FileNotFoundError:
        return False


@linux
def test_zygote_and_kernel_end_with_the_worker_however_it_ends(tmp_path: Path) -> None:
    told = {**os.environ, "PYTHONPATH": str(ROOT), "FER_OUT": str(tmp_path)}
    words = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(words, env=told, stdout=subprocess.PIPE, text=True, cwd=ROOT) as worker:
        assert worker.stdout is not None
        pids = [int(word) for word in worker.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        worker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_basic_cnn/lr_0_001", "00_exploration/default"])
def test_a_page_has_the_same_bytes_from_either_kernel(name: str, tmp_path: Path, zygote: kernels.Zygote) -> None:
    """Trained in the forked kernel and again, in another store, in a fresh one."""
    quick = {"epochs": 1, "seeds": [0], "width": 0.1} if name.startswith("01") else {}
    made = []
    for source in (zygote, None):
        settings = Settings(None, "sample", "cpu", tmp_path / str(len(made)), quick)
        page, target = schema.load_page(name), tmp_path / f"{len(made)}.ipynb"
        assert report.execute(page, page.values, target, settings, source) is None
        notebook = report.clean(nbformat.read(target, 4), settings)
        made.append(report.render(notebook, report.PageContext(name=name, title=name, dataset="sample")))
        weights = [file.read_bytes() for file in sorted(settings.store.rglob("model.safetensors"))]
        made.append(artifacts.digest([artifacts.digest(content) for content in weights]))
    assert made[:2] == made[2:]
