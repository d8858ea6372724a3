"""The registry of readers. A new reader is one module and one line here, or in the entry points of a package."""

from pipelines.registry.entries import Registry

OWN = {
  "jsonl": "pipelines.corpus.readers.jsonl:READER",
  "parquet": "pipelines.corpus.readers.parquet:READER",
  "tfrecord": "pipelines.corpus.readers.tfrecord:READER",
  "array_record": "pipelines.corpus.readers.array_record:READER",
}
READERS = Registry("reader", "winnow.readers", "pipelines.corpus.readers.reader:Reader", OWN)
