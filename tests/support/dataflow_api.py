"""Plays the Dataflow API on a local port: takes jobs, and reports about them what a test wants."""

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

_JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/?]+)(/messages|/metrics)?)?")


class Api:
  """The API: `jobs` has what was submitted, in order. A job moves to the next of its `states` whenever asked about."""

  def __init__(self, states: list[str], error: str | None):
    self.jobs: list[dict[str, Any]] = []
    self.flags: list[str] = []
    self._states, self._error, self._asked = states, error, 0

  def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
    asked = _JOBS.fullmatch(path)
    assert asked, path
    project, region, job, what = asked.groups()
    if method == "POST":
      self.jobs.append(json.loads(body))
      return self._job(project, region, "JOB_STATE_PENDING")
    if job is None:
      return {"jobs": [self._job(project, region, "JOB_STATE_RUNNING")] if self.jobs else []}
    assert job == "2026-11-25_00_00_00-1"
    if what == "/messages":
      error = {"id": "1", "time": "2026-11-25T00:00:00Z", "messageText": self._error}
      importance = {"messageImportance": "JOB_MESSAGE_ERROR"}
      return {"jobMessages": [error | importance]} if self._error and self._asked >= len(self._states) else {}
    if what == "/metrics":
      return {"metrics": []}
    state = self._states[min(self._asked, len(self._states) - 1)]
    self._asked += 1
    return self._job(project, region, state)

  def _job(self, project: str, region: str, state: str) -> dict[str, Any]:
    submitted = self.jobs[-1]
    same = {key: submitted[key] for key in ("name", "clientRequestId", "type")}
    return same | {
      "id": "2026-11-25_00_00_00-1",
      "projectId": project,
      "location": region,
      "currentState": state,
      "currentStateTime": "2026-11-25T00:00:00Z",
    }


@contextlib.contextmanager
def serve(states: list[str], error: str | None = None) -> Iterator[Api]:
  """Yields an API whose `flags` lead a command to it."""
  api = Api(states, error)

  class Handler(http.server.BaseHTTPRequestHandler):
    def _answer(self):
      body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
      data = json.dumps(api.answer(self.command, self.path.partition("?")[0], body)).encode()
      self.send_response(200)
      self.send_header("Content-Type", "application/json")
      self.send_header("Content-Length", str(len(data)))
      self.end_headers()
      self.wfile.write(data)

    do_GET = do_POST = _answer

    def log_message(self, *_):
      """Logs nothing."""

  server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  api.flags = [f"--dataflow_endpoint=http://localhost:{server.server_address[1]}", "--no_auth"]
  try:
    yield api
  finally:
    server.shutdown()
    server.server_close()
