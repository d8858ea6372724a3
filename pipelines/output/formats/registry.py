"""The registry of formats. A new format is one module and one line here, or in the entry points of a package."""

from pipelines.output.formats.format import Format
from pipelines.registry.entries import Registry

DEFAULT = "tfrecord"
FORMATS = Registry(
  "output format",
  "winnow.formats",
  Format,
  {
    "tfrecord": "pipelines.output.formats.tfrecord:FORMAT",
    "jsonl": "pipelines.output.formats.jsonl:FORMAT",
    "parquet": "pipelines.output.formats.parquet:FORMAT",
  },
)
