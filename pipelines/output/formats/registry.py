"""The registry of formats. A new format is one module and one line here, or in the entry points of a package."""

from pipelines.registry.entries import Registry

DEFAULT = "tfrecord"
FORMATS = Registry(
  "output format",
  "winnow.formats",
  "pipelines.output.formats.format:Format",
  {
    "tfrecord": "pipelines.output.formats.tfrecord:FORMAT",
    "jsonl": "pipelines.output.formats.jsonl:FORMAT",
    "parquet": "pipelines.output.formats.parquet:FORMAT",
  },
)
