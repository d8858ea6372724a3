"""The demo's corpus: documents that any machine with Winnow has, written as shards of C4 records.

The documents are readmes and licences of the installed packages, docstrings of the standard library and of a few
packages, and Python's own help topics. Nothing is imported or fetched to get them, and nothing is cleaned. Curation has
to find the copies of one licence, the one-line docstrings and the readmes that say UNKNOWN.
"""

import ast
import collections
import dataclasses
import email.parser
import gzip
import importlib.metadata
import io
import os
import pathlib
import pydoc_data.topics
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson
import pyarrow as pa
import zstandard
from pyarrow import parquet

# Winnow needs these, so they are installed. With the standard library they give some thousands of docstrings.
PACKAGES = ("huggingface_hub", "numpy", "pyarrow", "rich", "zstandard")
LICENCE_NAME = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
# Large parts of the standard library that are test data or toys.
SKIPPED_MODULES = {"idlelib", "lib2to3", "test", "turtledemo"}
TEST_FOLDERS = {"test", "tests", "testing", "_pyinstaller"}


class Document(NamedTuple):
  """A document of the corpus."""

  source: str  # readme, licence, docstring or topic
  url: str
  text: str


@dataclasses.dataclass(frozen=True)
class DemoCorpus:
  """A corpus that `write_demo_corpus` wrote.

  `pattern` is the glob of all shards; `sources` counts the documents of each kind.
  """

  pattern: str
  paths: tuple[str, ...]
  documents: int
  sources: dict[str, int]


def write_demo_corpus(folder: str | os.PathLike[str], *, shards: int = 8) -> DemoCorpus:
  """Writes the corpus as `demo-00000-of-00008.json.gz` and so on into a local folder, which is created if missing.

  Documents go to the shards in turn. The last shard is Parquet and the one before it JSON Lines under zstd, so that the
  demo reads mixed input. The bytes depend on the interpreter and the installed packages alone, so a second call
  replaces each shard by the same bytes. Raises ValueError for fewer than 3 shards.
  """
  if shards < 3:
    raise ValueError(f"the demo's corpus has one shard of each of 3 formats, so shards={shards} is too few")
  documents = list(read_documents())
  paths = []
  for shard in range(shards):
    records = [{"text": d.text, "url": d.url, "timestamp": ""} for d in documents[shard::shards]]
    suffix, encode = _FORMATS.get(shard - shards, ("json.gz", _gzip))
    path = pathlib.Path(folder, f"demo-{shard:05d}-of-{shards:05d}.{suffix}")
    _replace(path, encode(records))
    paths.append(str(path))
  sources = collections.Counter(document.source for document in documents)
  pattern = str(pathlib.Path(folder, f"demo-*-of-{shards:05d}.*"))
  return DemoCorpus(pattern, tuple(paths), len(documents), dict(sorted(sources.items())))


def read_documents(library: pathlib.Path | None = None, packages: pathlib.Path | None = None) -> Iterator[Document]:
  """Yields all documents that have text, always in the same order on one machine, each with its own url.

  `library` is the folder of the standard library, `packages` the folder that packages are installed into.
  """
  library = library or pathlib.Path(sysconfig.get_paths()["stdlib"])
  # The folder of a package that Winnow needs, since sys.path would include the current folder.
  packages = packages or pathlib.Path(pa.__file__).parents[1]
  own = sorted(sys.stdlib_module_names - SKIPPED_MODULES)
  seen = set()
  for documents in (_topics(), _package_texts(packages), _docstrings(library, own), _docstrings(packages, PACKAGES)):
    for source, url, text in documents:
      # A docstring may hold half of a surrogate pair, which no file can.
      text = text.encode("utf-8", "replace").decode()
      if text.strip() and url not in seen:
        seen.add(url)
        yield Document(source, url, text)


def is_licence(url: str) -> bool:
  """Tells whether the document with this url is a licence of an installed package."""
  return url.startswith("package:") and bool(LICENCE_NAME.match(url.rsplit("/", 1)[-1]))


def _topics() -> Iterator[Document]:
  for name, text in sorted(pydoc_data.topics.topics.items()):
    yield Document("topic", f"pydoc://topic/{name}", text)


def _package_texts(packages: pathlib.Path) -> Iterator[Document]:
  for distribution in sorted(importlib.metadata.distributions(path=[str(packages)]), key=_canonical_name):
    for file in sorted(distribution.files or [], key=str):
      path = packages / file
      # Take only files of the metadata folder: paths of scripts and data begin with `..`.
      if not file.parts[0].endswith((".dist-info", ".egg-info")) or not path.is_file():
        continue
      url = "/".join(["package:/", _canonical_name(distribution), *file.parts[1:]])
      if file.parts[1:] in (("METADATA",), ("PKG-INFO",)):
        yield Document("readme", url, _long_description(_read_text(path)))
      elif LICENCE_NAME.match(file.name):
        yield Document("licence", url, _read_text(path))


def _canonical_name(distribution: importlib.metadata.Distribution) -> str:
  return re.sub(r"[-_.]+", "-", distribution.name or "").lower()


def _long_description(metadata: str) -> str:
  message = email.parser.Parser().parsestr(metadata)
  return str(message.get_payload()) or message.get("Description", "")


def _docstrings(root: pathlib.Path, modules: Iterable[str]) -> Iterator[Document]:
  for module in modules:
    for file in (root / f"{module}.py", *sorted((root / module).rglob("*.py"))):
      parts = file.relative_to(root).with_suffix("").parts
      if file.is_file() and not TEST_FOLDERS.intersection(parts) and not parts[-1].endswith("_test"):
        yield from _module_docstrings(file, ".".join(parts).removesuffix(".__init__"))


def _module_docstrings(file: pathlib.Path, module: str) -> Iterator[Document]:
  """Yields the docstrings of a module, its functions and its classes; methods would add thousands of one-liners."""
  try:
    tree = ast.parse(file.read_bytes())
  except (SyntaxError, ValueError):  # a template, or code for another Python
    return
  defined = (node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
  for node in (tree, *defined):
    name = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
    yield Document("docstring", f"python://{name}", ast.get_docstring(node) or "")


def _read_text(path: pathlib.Path) -> str:
  return path.read_bytes().decode("utf-8", "replace")


def _json_lines(records: list[dict[str, str]]) -> bytes:
  return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)


def _gzip(records: list[dict[str, str]]) -> bytes:
  return gzip.compress(_json_lines(records), compresslevel=6, mtime=0)


def _zstd(records: list[dict[str, str]]) -> bytes:
  return zstandard.ZstdCompressor().compress(_json_lines(records))


def _parquet(records: list[dict[str, str]]) -> bytes:
  fields = [(name, pa.string()) for name in ("text", "url", "timestamp")]
  buffer = io.BytesIO()
  parquet.write_table(pa.Table.from_pylist(records, pa.schema(fields)), buffer)
  return buffer.getvalue()


_FORMATS = {-1: ("parquet", _parquet), -2: ("jsonl.zst", _zstd)}


def _replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a file atomically over an older one, since the corpus changes when a package is upgraded."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    temporary.write_bytes(data)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
