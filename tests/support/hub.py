"""A Hugging Face hub played in this process: it answers requests for a dataset's listing and its files."""

import hashlib
import http.server
import json
import re
import threading
from urllib import parse


class Hub:
  """A context manager: `endpoint` for HF_ENDPOINT, `files` (path -> bytes) of the dataset `owner/name` at `commit`."""

  def __init__(self):
    self.files: dict[str, bytes] = {}
    self.commit = "1" * 40
    self.asked: list[str] = []
    hub = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        hub.answer(self)

      do_HEAD = do_GET

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

  def __enter__(self) -> "Hub":
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_) -> None:
    self._server.shutdown()
    self._server.server_close()

  def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
    url = parse.urlsplit(request.path)
    path, is_recursive = parse.unquote(url.path), "true" in parse.parse_qs(url.query.lower()).get("recursive", [])
    self.asked.append(path)
    if re.fullmatch(r"/api/datasets/owner/name(/revision/[\w/]+)?", path):
      self._send(request, {"id": "owner/name", "sha": self.commit, "tags": [], "siblings": []})
    elif found := re.fullmatch(r"/api/datasets/owner/name/tree/(\w+)(?:/(.*))?", path):
      self._send(request, self._tree(found[1], found[2] or "", is_recursive))
    elif found := re.fullmatch(r"/datasets/owner/name/resolve/(\w+)/(.*)", path):
      self._send_file(request, self.files.get(found[2]) if found[1] == self.commit else None)
    else:
      request.send_error(404)

  def _tree(self, revision: str, folder: str, is_recursive: bool) -> list[dict]:
    prefix = f"{folder.strip('/')}/" if folder else ""
    entries = {}
    for path, data in self.files.items():
      if revision != self.commit or not path.startswith(prefix):
        continue
      *folders, _ = path.removeprefix(prefix).split("/")
      for depth in range(len(folders) if is_recursive else min(1, len(folders))):
        place = prefix + "/".join(folders[: depth + 1])
        entries[place] = {"type": "directory", "path": place, "oid": "2" * 40, "size": 0}
      if is_recursive or not folders:
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entries[path] = {"type": "file", "path": path, "oid": oid, "size": len(data)}
        if path.endswith(".parquet"):
          entries[path]["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return list(entries.values())

  def _send(self, request: http.server.BaseHTTPRequestHandler, value: object) -> None:
    body = json.dumps(value).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)

  def _send_file(self, request: http.server.BaseHTTPRequestHandler, data: bytes | None) -> None:
    if data is None:
      request.send_error(404)
      return
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    body = data[int(found[1]) : int(found[2]) + 1] if found else data
    request.send_response(206 if found else 200)
    request.send_header("Content-Length", str(len(body)))
    if found:
      request.send_header("Content-Range", f"bytes {found[1]}-{int(found[1]) + len(body) - 1}/{len(data)}")
    request.end_headers()
    request.wfile.write(body)
