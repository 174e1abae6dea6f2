"""What was logged offline goes to the user's wandb server; and a server that is not there stops no training.

A training logs into its run's folder, a part (`offline-run-<time>-<id>`) each time it is started or resumed, all under
one id: the training key. Sending is wandb's own `sync`; here it is found out what there is to send, in which order,
and whether it arrived.
"""

from __future__ import annotations

import base64
import json
import netrc
import os
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from fer_core.artifacts import Settings, read_json

BLOCK, HEADER = 32_768, 7  # bytes of a block and of a record's head in a .wandb file; the file begins with as many
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
CLOUD = "https://api.wandb.ai"


@dataclass(frozen=True)
class Part:
    """One offline folder: from a start or a resumption of the training to its end or kill."""

    file: Path
    epochs: tuple[int, ...]

    @property
    def sent(self) -> bool:
        """wandb leaves this mark once all of the file has reached the server."""
        return self.file.with_suffix(".wandb.synced").exists()


@dataclass(frozen=True)
class Tracked:
    """A run as wandb knows it: its parts in the order of time."""

    id: str
    state: str
    parts: tuple[Part, ...]

    @property
    def epochs(self) -> list[int]:
        return sorted({epoch for part in self.parts for epoch in part.epochs})

    @property
    def missing(self) -> list[int]:
        """Epochs that were trained and whose row a kill kept out of the log (history.csv has them all)."""
        return sorted(set(range(1, max(self.epochs, default=0) + 1)) - set(self.epochs))


def offline_runs(store: Path) -> list[Tracked]:
    """All runs of the store with something logged offline, by id."""
    parts: dict[str, list[Part]] = {}
    states: dict[str, str] = {}
    for file in sorted((store / "runs").glob("*/wandb/offline-run-*/run-*.wandb")):  # folders begin with the time
        name = file.stem.removeprefix("run-")
        sent = Part(file, ()).sent
        if not sent and next(records(file.read_bytes()), None) is None:
            continue  # killed before anything was on disk: nothing to send, and wandb's sync cannot read it
        epochs = () if sent else tuple(logged_epochs(file))
        parts.setdefault(name, []).append(Part(file, epochs))
        states[name] = (read_json(file.parents[2] / "run.json") or {}).get("state", "under way, or cut off")
    return [Tracked(name, states[name], tuple(parts[name])) for name in sorted(parts)]


def records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file up to where it is torn: a killed training leaves its last one unfinished.

    The form is LevelDB's log: blocks of 32 KiB, each record headed by checksum (4 bytes), length (2) and type (1).
    Source: github.com/google/leveldb, doc/log_format.md.
    """
    place, joined = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        content = data[place + HEADER : place + HEADER + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or len(content) < length:
            return
        joined = content if kind in (FULL, FIRST) else joined + content
        if kind in (FULL, LAST):
            yield joined
        place += HEADER + length


def logged_epochs(file: Path) -> Iterator[int]:
    """The epochs whose row stands in a .wandb file."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made by protobuf

    for content in records(file.read_bytes()):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:
            return
        for item in record.history.item:
            if "epoch" in (item.key, *item.nested_key):
                yield int(json.loads(item.value_json))


def describe(run: Tracked) -> str:
    """A run that is to be sent and what is in it, as `--dry-run` lists it."""
    lines = [f"{run.id} ({run.state}): {len(run.parts)} part{'s' * (len(run.parts) > 1)}"]
    for part in run.parts:
        told = "sent already" if part.sent else "no epoch"
        if part.epochs:  # unknown of what was sent
            first, last = part.epochs[0], part.epochs[-1]
            told = f"epochs {first} to {last}" if first < last else f"epoch {first}"
        lines.append(f"    {part.file.parent.name}: {told}")
    if run.missing and not any(part.sent for part in run.parts):
        lines.append(f"    not logged, since a kill came between: epochs {', '.join(map(str, run.missing))}")
    return "\n".join(lines)


def send(run: Tracked) -> bool:
    """Send a run's parts in one call, which puts those of one id in the order of time; True where all have arrived."""
    waiting = [str(part.file.parent) for part in run.parts if not part.sent]
    words = [sys.executable, "-m", "wandb", "sync", "--id", run.id, "-n", "1", *waiting]
    subprocess.run(words, cwd=run.parts[0].file.parents[2], stdin=subprocess.DEVNULL, check=False)
    return all(part.sent for part in run.parts)  # wandb's exit status is 0 for some failures


def sync(settings: Settings, dry_run: bool) -> int:
    """List, or send, what was logged offline and is not sent yet; exit status 1 where something did not arrive."""
    runs = [run for run in offline_runs(settings.store) if not all(part.sent for part in run.parts)]
    if not runs:
        print("Nothing to send: every part that was logged offline has been sent, or nothing was logged.")
        return 0
    parts = sum(not part.sent for run in runs for part in run.parts)
    print(f"{len(runs)} run(s), {parts} part(s) {'would go' if dry_run else 'go'} to {server()}:")
    failed = []
    for run in runs:
        print(describe(run), flush=True)
        if not dry_run and not send(run):
            failed.append(run.id)
    if failed:
        print(
            f"{len(failed)} of {len(runs)} did not arrive whole; the next call sends what is left: {', '.join(failed)}"
        )
    return 1 if failed else 0


# ------------------------------------------------------------------------------------------------------ online or not


def server() -> str:
    """The server's address without what may be secret in it."""
    address = urlparse(os.environ.get("WANDB_BASE_URL") or CLOUD)
    return f"{address.scheme}://{address.hostname}{f':{address.port}' if address.port else ''}"


def _key() -> str | None:
    """The API key from the environment, or where `wandb login` put it."""
    if os.environ.get("WANDB_API_KEY"):
        return os.environ["WANDB_API_KEY"]
    try:
        login = netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(server()).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return login[2] if login else None


def refusal() -> str | None:
    """Why the server would not take a run now, in a few words; None where it answers to the key."""
    key = _key()
    if key is None:
        return "no API key is configured (run `wandb login`)"
    login = base64.b64encode(f"api:{key}".encode()).decode()
    question = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    try:
        asked = urllib.request.Request(f"{server()}/graphql", question, headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            told = json.loads(answer.read(1_000_000))
    except urllib.error.HTTPError as fault:
        return f"it answers {fault.code} {fault.reason}"
    except (OSError, ValueError) as fault:
        return f"it cannot be reached ({getattr(fault, 'reason', fault)})"
    viewer = (told.get("data") or {}).get("viewer") if isinstance(told, dict) else None
    return None if viewer else "it does not know the API key"


def offline_unless_answered() -> None:
    """With WANDB_MODE=online and a server that does not take runs, log offline instead, and say so.

    wandb.init raises after a minute and a half of trying, and a training would be lost to its own log.
    """
    if os.environ.get("WANDB_MODE") != "online":
        return
    why = refusal()
    if why:
        print(f"wandb: {server()}: {why}; logging offline, `make wandb-sync` sends it later.", file=sys.stderr)
        os.environ["WANDB_MODE"] = "offline"
