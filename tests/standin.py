"""A stand-in for a wandb server: as much of its HTTP as `wandb sync` and `wandb.init` ask for, and a memory of it."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn(ThreadingHTTPServer):
    """Listens on a free port of this machine.

    Attributes
    ----------
    status : what it answers everything with; other than 200 it refuses
    rows : {run id: history rows in the order they came}
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.body()
        self.reply({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path.endswith("/graphql"):
            self.reply({"data": self.answer(json.loads(body))})
            return
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if stream and self.server.status == 200:
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.server.rows.setdefault(stream[1], []).extend(json.loads(line) for line in lines)
        self.reply({})

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        name, told = found[1] if found else "", asked.get("variables") or {}
        self.server.asked.append(name)
        if name == "Viewer":
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "UpsertBucket":
            return {
                "upsertBucket": {"bucket": self.run(told["name"]), "inserted": told["name"] not in self.server.rows}
            }
        if name == "RunResumeStatus":
            known = told["name"] in self.server.rows
            bucket = self.run(told["name"]) if known else None
            return {"model": {"id": "p", "name": "fer", "entity": {"id": "e", "name": "me"}, "bucket": bucket}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.server.url}/upload/{file}"} for file in told["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def run(self, name: str) -> dict[str, Any]:
        rows = self.server.rows.get(name, [])
        project = {"id": "p", "name": "fer", "entity": {"id": "e", "name": "me"}}
        tail = json.dumps([json.dumps(row) for row in rows[-1:]])
        counts = {"logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0}
        texts = {
            "config": "{}",
            "summaryMetrics": "{}",
            "eventsTail": "[]",
            "historyTail": tail,
            "wandbConfig": '{"t": 1}',
        }
        more = {"displayName": name, "description": "", "notes": "", "sweepName": None, "tags": []}
        return {"id": "r", "name": name, "project": project, **counts, **texts, **more}

    def reply(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
