"""A small stand-in for the W&B server on the loopback, for tests that run the real client online.

    with FakeWandb() as server:
        os.environ.update(server.env())
        run = wandb.init(project="p"); run.log({"loss": 1.0}); run.finish()
        assert server.run().history[0]["loss"] == 1.0

It speaks what the client asks for: GraphQL, the file stream, uploads and downloads by signed URL. It is told to fail:
``server.fail("500")`` and every other status, ``"timeout"`` (it takes a request and never answers), ``"reset"`` (it
takes one and cuts the connection), ``"vanish"`` (nobody listens any more); ``server.fail(None)`` makes it well again.
``server.fault = lambda method, path, operation: 500`` picks requests (None lets one pass), ``server.delay = seconds``
slows all. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
import signal
import socket
import struct
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


def forget():
    """Have the client of this process forget its server, and all it still wants of it.

    Its own teardown waits for its process without a bound, which after failed requests does not always end: it is ended
    here, where the system tells which it is.
    """
    import wandb

    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            name, _, rest = place.read_text().partition("(")[2].rpartition(")")
            if name == "wandb-core" and int(rest.split()[1]) == os.getpid():
                os.kill(int(place.parent.name), signal.SIGKILL)
    with contextlib.suppress(Exception, SystemExit):  # the status of its process
        wandb.teardown()


@dataclass
class Run:
    entity: str
    project: str
    name: str
    id: str = ""
    display_name: str = ""
    tags: list = field(default_factory=list)
    notes: str = ""
    group: str = ""
    job_type: str = ""
    raw_config: dict = field(default_factory=dict)
    lines: dict = field(default_factory=lambda: {"wandb-history.jsonl": {}, "wandb-events.jsonl": {}, "output.log": {}})
    summary: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    finished: bool = False
    exit_code: int | None = None
    upserts: int = 0
    posts: int = 0

    @property
    def history(self):
        return [json.loads(s) for _, s in sorted(self.lines["wandb-history.jsonl"].items())]

    @property
    def config(self):
        return {k: v.get("value") for k, v in self.raw_config.items() if k != "_wandb"}

    @property
    def metrics(self):
        """define_metric() declarations as the server stores them (config._wandb.value.m)."""
        return self.raw_config.get("_wandb", {}).get("value", {}).get("m", [])


@dataclass
class Artifact:
    id: str
    name: str
    type: str
    run: str | None
    digest: str
    aliases: list
    metadata: dict
    description: str | None
    client_id: str = ""
    files: dict = field(default_factory=dict)
    manifest: dict = field(default_factory=dict)
    state: str = "PENDING"


class FakeWandb:
    def __init__(self, entity="fake-entity", port=0):
        self.entity, self.port, self.httpd = entity, port, None
        self.runs: dict[tuple, Run] = {}
        self.artifacts: list[Artifact] = []
        self.storage: dict[str, bytes] = {}
        self.calls: list[tuple] = []
        self.errors: list[str] = []
        self.fault = None
        self.delay = 0.0
        self.failing: str | None = None
        self.stop_runs = False
        self.lock = threading.RLock()

    # -- life cycle -------------------------------------------------------------------------
    def start(self):
        outer = self

        class H(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *a):
                pass

            def _do(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if outer.failing in ("timeout", "reset"):
                    outer.calls.append((time.time(), self.command, self.path, None, outer.failing, None))
                    return outer.cut(self.connection)
                try:
                    status, out, ctype = outer.handle(
                        self.command, self.path, body, self.headers.get("x-wandb-async-client-id")
                    )
                except Exception:  # a 400 is not retried by wandb-core (a 500 or EOF would be)
                    outer.errors.append(traceback.format_exc())
                    status, out, ctype = 400, b"{}", "application/json"
                self.send_response(status)
                self.send_header("content-type", ctype)
                self.send_header("content-length", str(len(out)))
                self.send_header("ETag", hashlib.md5(body).hexdigest())
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(out)

        for verb in ("GET", "POST", "PUT", "HEAD", "DELETE"):
            setattr(H, f"do_{verb}", H._do)

        class S(ThreadingHTTPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.httpd = S(("127.0.0.1", self.port), H)
        self.port = self.httpd.server_port
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        if self.httpd:
            self.httpd.shutdown()
            self.httpd.server_close()
            self.httpd = None

    def fail(self, how):
        """Fail every request from now on: a status such as "500", "timeout", "reset", "vanish"; None to be well."""
        status = int(how) if how is not None and how.isdigit() else None
        self.failing, self.fault = how, (lambda *_: status) if status else None
        if how == "vanish":
            self.stop()
        elif self.httpd is None:
            self.start()

    def cut(self, connection):
        """Leave a request without an answer until the server is well, or reset its connection at once."""
        while self.failing == "timeout":
            time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *a):
        self.failing = None
        self.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def env(self):
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ENTITY": self.entity,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
            # By default a request is tried again for a quarter of an hour, and the end of the client waits for that.
            "WANDB_HTTP_TIMEOUT": "2",
            "WANDB__GRAPHQL_RETRY_MAX": "2",
            "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "0.2",
            "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "0.2",
        }

    def run(self, name=None):
        rs = [r for r in self.runs.values() if name in (None, r.name)]
        assert len(rs) == 1, f"{len(rs)} runs match {name!r}"
        return rs[0]

    # -- HTTP -------------------------------------------------------------------------------
    def handle(self, method, path, body, client=None):
        if self.delay:
            time.sleep(self.delay)
        js, op = None, None
        if path == "/graphql" or path.endswith("/file_stream"):
            js = json.loads(body or b"{}")
            m = re.search(r"(?:query|mutation)\s+(\w+)", js.get("query") or "")
            op = js.get("operationName") or (m and m[1])
        code = self.fault(method, path, op) if self.fault else None
        with self.lock:
            self.calls.append((time.time(), method, path, op, code or 200, js))
            if code:
                return code, b'{"errors":[{"message":"injected"}]}', "application/json"
            if path == "/graphql":
                fn = getattr(self, "op_" + _snake(op or ""), None)
                if fn is None:
                    return (
                        200,
                        json.dumps(
                            {"errors": [{"message": f"fake server: unknown operation {op}"}], "data": None}
                        ).encode(),
                        "application/json",
                    )
                return 200, json.dumps({"data": fn(js.get("variables") or {})}).encode(), "application/json"
            if path.endswith("/file_stream"):
                return 200, json.dumps(self.file_stream(path.split("/")[2:5], js, client)).encode(), "application/json"
            if path.startswith("/artifactsV2/"):
                *_, aid, _, name = (unquote(part) for part in path.split("/"))
                return 200, self.storage[f"artifact/{aid}/{name}"], "application/octet-stream"
            if path.startswith("/storage/"):
                key = unquote(path[len("/storage/") :])
                if method == "PUT":
                    self.storage[key] = body
                    self._stored(key, body)
                    return 200, b"", "text/plain"
                if key in self.storage:
                    return 200, self.storage[key], "application/octet-stream"
                return 404, b"", "text/plain"
            return (200 if path.startswith("/sdk/") else 404), b"{}", "application/json"

    def file_stream(self, where, js, client):
        run = self.runs[tuple(map(unquote, where))]
        run.posts += 1
        for name, chunk in (js.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = (run.summary if client else {}) | json.loads(chunk["content"][-1])
            else:  # `offset` is a line number: re-sent lines overwrite;
                lines = run.lines.setdefault(name, {})  # mode="shared": each writer counts from 0, so append
                base = len(lines) if client else chunk["offset"]
                lines.update((base + i, line) for i, line in enumerate(chunk["content"]))
        if js.get("complete"):
            run.finished, run.exit_code = True, js.get("exitcode")
        return {"exitcode": None, "limits": {}, "stopped": self.stop_runs}

    def _stored(self, key, body):
        kind, rest = key.split("/", 1)
        if kind == "run":
            e, p, r, name = rest.split("/", 3)
            self.runs[(e, p, r)].files[name] = body
        else:
            aid, name = rest.split("/", 1)
            art = next(a for a in self.artifacts if a.id == aid)
            if kind == "manifest":
                art.manifest = json.loads(body)
            else:
                art.files[name] = body

    # -- GraphQL ----------------------------------------------------------------------------
    def op_viewer(self, v):
        return {
            "viewer": {
                "id": "VXNlcjox",
                "entity": self.entity,
                "username": "fake",
                "email": "f@example.org",
                "flags": "{}",
                "admin": False,
                "teams": {"edges": []},
            }
        }

    def op_get_default_entity(self, v):
        return {"viewer": {"id": "VXNlcjox", "entity": self.entity}}

    def op_server_features_query(self, v):
        return {"serverInfo": {"features": []}}

    def op_organization_core_weave_organization_id(self, v):
        return {"entity": {"organization": None}}

    def _bucket(self, r):
        return {
            "id": r.id,
            "name": r.name,
            "displayName": r.display_name,
            "description": None,
            "sweepName": None,
            "config": json.dumps(r.raw_config),
            "historyLineCount": len(r.lines["wandb-history.jsonl"]),
            "project": {"id": "UHJvamVjdDox", "name": r.project, "entity": {"id": "RW50aXR5OjE=", "name": r.entity}},
        }

    def op_upsert_bucket(self, v):
        ent, proj = v.get("entity") or self.entity, v.get("project") or "uncategorized"
        r = self.runs.get((ent, proj, v["name"]))
        new = r is None
        if new:
            r = self.runs[(ent, proj, v["name"])] = Run(
                ent, proj, v["name"], id=base64.b64encode(f"Run:{v['name']}".encode()).decode()
            )
            r.display_name = f"fake-run-{len(self.runs)}"
        r.upserts += 1
        if v.get("config"):
            r.raw_config = json.loads(v["config"])
        for src, dst in (
            ("displayName", "display_name"),
            ("tags", "tags"),
            ("notes", "notes"),
            ("groupName", "group"),
            ("jobType", "job_type"),
        ):
            if v.get(src):
                setattr(r, dst, v[src])
        return {"upsertBucket": {"bucket": self._bucket(r), "inserted": new}}

    def op_run_resume_status(self, v):
        r = self.runs.get((v.get("entity") or self.entity, v["project"], v["name"]))
        if r is None:
            return {
                "model": {"id": "m", "name": v["project"], "entity": {"id": "e", "name": self.entity}, "bucket": None}
            }

        def tail(f):
            return json.dumps([s for _, s in sorted(r.lines[f].items())][-1:])

        b = {
            **self._bucket(r),
            "summaryMetrics": json.dumps(r.summary),
            "logLineCount": len(r.lines["output.log"]),
            "eventsLineCount": len(r.lines["wandb-events.jsonl"]),
            "historyTail": tail("wandb-history.jsonl"),
            "eventsTail": tail("wandb-events.jsonl"),
            "tags": r.tags,
            "notes": r.notes,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "m", "name": r.project, "entity": {"id": "e", "name": r.entity}, "bucket": b}}

    def op_rewind_run(self, v):
        r = self.runs[(v.get("entity") or self.entity, v["project"], v["runName"])]
        h = r.lines["wandb-history.jsonl"]
        for k in [k for k, s in h.items() if json.loads(s).get("_step", 0) > v["metricValue"]]:
            del h[k]
        return {"rewindRun": {"rewoundRun": self._bucket(r)}}

    # the read side: wandb.Api().run(...), .runs(...), .history(), .scan_history()
    def _node(self, r):
        last = max([h.get("_step", 0) for h in r.history], default=-1)
        return {
            **self._bucket(r),
            "tags": r.tags,
            "state": "finished" if r.finished else "running",
            "group": r.group,
            "jobType": r.job_type,
            "commit": None,
            "readOnly": False,
            "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "notes": r.notes,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(r.summary),
            "user": {"name": "fake", "username": "fake"},
            "projectId": "1",
            "historyKeys": {"lastStep": last, "keys": {k: {} for h in r.history for k in h}, "sets": []},
        }

    def _find(self, v):
        return self.runs.get(
            (v.get("entity") or self.entity, v["project"], v.get("name") or v.get("run") or v.get("runName"))
        )

    def op_run(self, v):
        r = self._find(v)
        return {"project": {"internalId": "1", "run": self._node(r) if r else None}}

    def op_run_history_keys(self, v):
        return {"project": {"run": {"historyKeys": self._node(self._find(v))["historyKeys"]}}}

    def op_query_run_info(self, v):  # `wandb leet <run url>`
        r = self._find(v)
        return {
            "project": {"run": {"displayName": r.display_name, "summaryMetrics": json.dumps(r.summary)} if r else None}
        }

    def op_runs(self, v):
        rs = [r for r in self.runs.values() if (r.entity, r.project) == (v["entity"], v["project"])]
        return {
            "project": {
                "internalId": "1",
                "runCount": len(rs),
                "readOnly": False,
                "runs": {
                    "edges": [{"node": self._node(r), "cursor": r.name} for r in rs],
                    "pageInfo": {"endCursor": None, "hasNextPage": False},
                },
            }
        }

    def op_run_parquet_history(self, v):
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def _rows(self, v, lo=0, hi=1 << 62):
        return [h for h in self._find(v).history if lo <= h.get("_step", 0) < hi]

    def op_history_page(self, v):
        return {"project": {"run": {"history": [json.dumps(h) for h in self._rows(v, v["minStep"], v["maxStep"])]}}}

    def op_run_full_history(self, v):
        return {"project": {"run": {"history": [json.dumps(h) for h in self._rows(v)]}}}

    def _sampled(self, v, specs):
        """Rows that hold all the keys, to ``maxStep`` inclusive; thinned evenly to as many as were asked for."""

        def pick(spec):
            spec = json.loads(spec) if isinstance(spec, str) else spec
            rows = self._rows(v, spec.get("minStep", 0), spec.get("maxStep", 1 << 62) + 1)
            rows = [{k: h[k] for k in spec["keys"]} for h in rows if all(k in h for k in spec["keys"])]
            return rows[:: -(-len(rows) // spec.get("samples", len(rows) or 1)) or 1]

        return {"project": {"run": {"sampledHistory": [pick(spec) for spec in specs]}}}

    def op_sampled_history_page(self, v):
        return self._sampled(v, [v["spec"]])

    def op_run_sampled_history(self, v):
        return self._sampled(v, v["specs"])

    def op_create_run_files(self, v):
        base = f"{self.url}/storage/run/{v['entity']}/{v['project']}/{v['run']}/"
        return {
            "createRunFiles": {
                "runID": v["run"],
                "uploadHeaders": [],
                "files": [{"name": f, "uploadUrl": base + f} for f in v["files"]],
            }
        }

    def op_create_artifact(self, v):
        i = v["input"]
        aid = base64.b64encode(f"Artifact:{len(self.artifacts) + 1}".encode()).decode()
        old = [a for a in self.artifacts if a.name == i["artifactCollectionName"] and a.state == "COMMITTED"]
        same = [a for a in old if a.digest == i["digest"]]
        a = (
            same[0]
            if same
            else Artifact(
                aid,
                i["artifactCollectionName"],
                i["artifactTypeName"],
                i.get("runName"),
                i["digest"],
                [x["alias"] for x in i.get("aliases") or []],
                json.loads(i.get("metadata") or "{}"),
                i.get("description"),
                i.get("clientID") or "",
            )
        )
        if not same:
            self.artifacts.append(a)
        return {
            "createArtifact": {
                "artifact": {
                    "id": a.id,
                    "state": a.state,
                    "artifactSequence": {"latestArtifact": {"id": old[-1].id} if old else None},
                }
            }
        }

    def op_create_artifact_manifest(self, v):
        f = {"id": "f"}
        if v.get("includeUpload"):
            f |= {"uploadUrl": f"{self.url}/storage/manifest/{v['artifactID']}/{v['name']}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m:" + v["artifactID"], "file": f}}}

    def op_create_artifact_files(self, v):

        def node(s):
            return {
                "node": {
                    "storagePath": None,
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": s["artifactID"]},
                    "uploadUrl": f"{self.url}/storage/artifact/{s['artifactID']}/{s['name']}",
                }
            }

        return {"createArtifactFiles": {"files": {"edges": [node(s) for s in v.get("input", v)["artifactFiles"]]}}}

    def op_commit_artifact(self, v):
        a = next(a for a in self.artifacts if a.id == v["artifactID"])
        a.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": a.id, "digest": a.digest}}}

    def op_run_output_artifacts(self, v):
        found = [a for a in self.artifacts if a.run == v["run"] and a.state == "COMMITTED"]
        return {
            "project": {
                "run": {
                    "artifacts": {
                        "totalCount": len(found),
                        "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False},
                        "edges": [{"node": self._artifact(a, v)} for a in found],
                    }
                }
            }
        }

    def _artifact(self, a, v):
        project = {"id": "p", "internalId": "1", "name": v["project"], "entity": {"name": v["entity"]}}
        collection = {"__typename": "ArtifactSequence", "name": a.name, "project": project}
        return {
            "__typename": "Artifact",
            "id": a.id,
            "artifactSequence": collection,
            "versionIndex": 0,
            "artifactType": {"name": a.type},
            "description": a.description,
            "metadata": json.dumps(a.metadata),
            "ttlDurationSeconds": 0,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": a.state,
            "size": sum(map(len, a.files.values())),
            "digest": a.digest,
            "commitHash": None,
            "fileCount": len(a.files),
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": None,
            "aliases": [],
        }

    def op_fetch_artifact_manifest(self, v):
        (found,) = (a for a in self.artifacts if a.id == v["id"])
        (name,) = (key for key in self.storage if key.startswith(f"manifest/{found.id}/"))
        return {
            "artifact": {"currentManifest": {"id": "m", "file": {"id": "f", "directUrl": f"{self.url}/storage/{name}"}}}
        }

    def op_artifact_type(self, v):
        return {"project": {"artifact": None}}  # asked before logging an artifact

    def op_use_artifact(self, v):
        return {"useArtifact": {"artifact": {"id": v["input"]["artifactID"]}}}

    def op_client_idmapping(self, v):
        hit = [a for a in self.artifacts if a.client_id == v.get("clientID")]
        return {"clientIDMapping": {"serverID": hit[0].id} if hit else None}


def _snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
