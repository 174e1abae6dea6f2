"""Kernels for pages: a fresh process each or, on Linux, a fork of one that has imported everything already.

Half of a page's cost was imports, the same ones for every page. A worker's zygote (`python -m fer_core.kernels`) does
them once and forks a kernel for each page: while it still has a single thread, with the page's environment, and with
whatever an import settles by asking whether it runs in a notebook settled as a fresh kernel would. A test holds the two
kinds to the same state and the same bytes. macOS does not let numpy's and torch's libraries fork safely, Windows has
no fork: there, and wherever forking fails, a page gets a fresh kernel.
"""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import signal
import subprocess
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from fer_core.schema import ROOT

# Arrow's allocator starts a thread when it is loaded; a process with two cannot fork safely.
QUIET_ALLOCATOR = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}

IMPORTED = (
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "matplotlib.backends.backend_agg",
    "pyarrow.parquet",
    "scipy.stats",
    "seaborn",
    "fer_core.notebook",
)
TORCH = ("fer_core.training", "fer_core.explain")  # for pages that train, score or explain


# In bytes; with "/kernel.json-ipc-5" after it: a socket's path may have 103 on macOS, 107 on Linux.
LONGEST_FOLDER = 85


def manager(environment: dict[str, str], folder: Path, zygote: Zygote | None = None, torch: bool = True) -> type:
    """The kernel manager class that papermill is to use for one page.

    Parameters
    ----------
    environment : all that the kernel sees of it
    folder : where its sockets lie, so that no two kernels race for a port; ports, where its path is too long for that
    zygote : what to fork the kernel from; `torch` says whether with torch imported
    """
    from jupyter_client import manager
    from jupyter_client.kernelspec import KernelSpec

    base: Any = manager.AsyncKernelManager

    class PageKernel(base):
        """A kernel of this very interpreter, whatever kernels the user has installed."""

        def __init__(self, **options: Any) -> None:
            options |= {"connection_file": str(folder / "kernel.json")}
            if sys.platform != "win32" and len(os.fsencode(folder)) <= LONGEST_FOLDER:
                options |= {"transport": "ipc"}
            super().__init__(**options)

        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(**{**options, "env": environment, "cwd": str(ROOT)})

        async def _async_launch_kernel(self, command: list[str], **options: Any) -> None:
            if zygote and (forked := zygote.fork(command[3:], environment, torch)):
                self.provisioner.process, self.provisioner.pid, self.provisioner.pgid = forked, forked.pid, forked.pid
                self._reconcile_connection_info(self.provisioner.connection_info)
            else:
                await super()._async_launch_kernel(command, **options)

    return PageKernel


# -------------------------------------------------------------------------------------------------- the worker's side


class Zygote:
    """A process to fork kernels from, started with the first kernel asked of it.

    It ends with `close`, or with the process that started it, whatever ended that.
    """

    def __init__(self) -> None:
        # FER_KERNELS=fresh is for comparing the two
        self.usable = sys.platform == "linux" and os.environ.get("FER_KERNELS", "forked") == "forked"
        self.process: subprocess.Popen[str] | None = None

    def fork(self, arguments: list[str], environment: dict[str, str], torch: bool) -> Forked | None:
        """A kernel with these arguments (`-f` and its connection file); None: it takes a fresh one, says the log."""
        if not self.usable:
            return None
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fer_core.kernels"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env=environment | QUIET_ALLOCATOR,  # not the worker's own, which may hold secrets
            )
        pid = self.ask({"fork": {"arguments": arguments, "environment": environment, "torch": torch}})
        self.usable = pid is not None  # what failed once would fail again
        return None if pid is None else Forked(pid, self)

    def ask(self, question: dict[str, Any]) -> Any:
        """Its answer; None also where it is gone."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline() or "null")
        except BrokenPipeError:
            return None

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()  # it ends with its stdin
            self.process = None


class Forked:
    """A kernel that is the zygote's child, with as much of `subprocess.Popen` as jupyter_client asks for."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, zygote: Zygote) -> None:
        self.pid, self.zygote = pid, zygote
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            state = self.zygote.ask({"poll": self.pid})
            # Without its parent a kernel ends within a second.
            self.returncode = -signal.SIGKILL if state is None else state["status"]
        return self.returncode

    def wait(self) -> int | None:
        return self.poll()  # jupyter_client waits for a process only once poll() told its end

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


# -------------------------------------------------------------------------------------------------- the zygote's side


def serve() -> None:
    """A zygote's life: questions are lines on stdin, answers lines on stdout; it ends with stdin."""
    answers = os.fdopen(os.dup(1), "w")
    questions = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # whatever a kernel prints past its own streams goes to the worker's log
    _import()
    for line in questions:
        question = json.loads(line)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer: Any = {"status": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            answer = _fork(question["fork"], (answers, questions))
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # at once: taking torch apart would take seconds


def _import() -> None:
    """What every page needs; no more, since each import is a chance for something that must not be shared."""
    from ipykernel.iostream import OutStream

    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel does before its first cell
    # pandas asks at import whether it is in a notebook, and shows other columns where it is not.
    in_kernel = types.SimpleNamespace(kernel=True)
    builtins.get_ipython = lambda: in_kernel  # type: ignore[attr-defined]
    pandas = importlib.import_module("pandas")
    del builtins.get_ipython  # type: ignore[attr-defined]
    pandas.set_option("display.encoding", OutStream.encoding)  # it asks sys.stdout, which is not a kernel's yet
    for name in IMPORTED:
        importlib.import_module(name)


def _fork(wish: dict[str, Any], own: tuple[Any, ...]) -> int | None:
    """The kernel's process id; None, with the reason in the log, where there is none."""
    for name in TORCH if wish["torch"] else ():
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        print(f"zygote: {threads} threads, so no safe fork: kernels are started afresh", file=sys.stderr, flush=True)
        return None
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as fault:
        print(f"zygote: {fault}: kernels are started afresh", file=sys.stderr, flush=True)
        return None
    if pid == 0:
        status = 1
        try:
            for stream in own:
                os.close(stream.fileno())
            _live(wish["arguments"], wish["environment"], parent)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)  # never back into the zygote's loop
    return pid


def _live(arguments: list[str], environment: dict[str, str], parent: int) -> None:
    """In the fork: become the kernel that `python -m ipykernel_launcher` with these arguments would be."""
    import numpy
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()  # jupyter_client signals the whole group
    backend = os.environ["MPLBACKEND"]
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(parent))
    os.environ.setdefault("MPLBACKEND", backend)
    numpy.random.seed()  # chance that nobody seeded is each kernel's own
    launcher = importlib.util.find_spec("ipykernel_launcher")
    sys.argv = [str(launcher and launcher.origin), *arguments]
    kernel = IPKernelApp.instance(parent_handle=parent)  # it ends when the zygote does
    kernel.initialize(arguments)
    kernel.start()


if __name__ == "__main__":
    # A fresh kernel has PYTHONPATH on its path, and nothing before it.
    if sys.path[0] in ("", str(ROOT)):
        del sys.path[0]
    serve()
