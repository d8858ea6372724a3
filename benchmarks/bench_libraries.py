"""Our own code beside the library that could take its place: views of safetensors, and one S3 client a process."""

import argparse
import logging
import os
import pathlib
import tempfile
import time
import urllib.request
from collections.abc import Callable

import common
import numpy as np
import safetensors.numpy
from apache_beam.io import filesystems
from apache_beam.options import pipeline_options
from moto import server

from curation.models import safetensors_files
from pipelines.files import object_stores, storage

OBJECTS, OBJECT_BYTES = 40, 20_000


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
  started = clock()
  work()
  return clock() - started


def bench_safetensors(megabytes: int) -> None:
  """Opens a file of float32 tensors of 4 MiB and looks at each, three times; prints the best."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "model.safetensors")
    tensors = {f"layer.{i}": np.full((1024, 1024), i, np.float32) for i in range(megabytes // 4)}
    safetensors.numpy.save_file(tensors, path)
    del tensors
    ways = {
      "views of the mapped file, ours": lambda: safetensors_files.open_tensors(path),
      "safetensors.numpy.load_file": lambda: safetensors.numpy.load_file(path),
    }
    for name, way in ways.items():
      best = min(seconds_of(lambda way=way: [tensor[0, 0] for tensor in way().values()]) for _ in range(3))
      print(f"{megabytes} MB of float32, {name:32} {1e3 * best:8.1f} ms")


def bench_s3() -> None:
  """Creates, finds, reads, looks at and deletes objects on a server in this process, whose CPU time is in both rows."""
  os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
  logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which tells of each request
  emulator = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
  emulator.start()
  endpoint = "http://{}:{}".format(*emulator.get_host_and_port())
  urllib.request.urlopen(urllib.request.Request(f"{endpoint}/winnow", method="PUT")).close()
  filesystems.FileSystems.set_options(pipeline_options.PipelineOptions([f"--s3_endpoint_url={endpoint}"]))
  paths = [f"s3://winnow/folder/{number:03d}.bin" for number in range(OBJECTS)]
  data = os.urandom(OBJECT_BYTES)

  def work() -> None:
    for path in paths:
      storage.create(path, data)
    assert [path for path, _ in storage.find("s3://winnow/folder/*.bin")] == paths
    for path in paths:
      assert storage.read_bytes(path) == data
      storage.version(path)
    storage.delete(paths)

  shared = object_stores.file_system
  ways = {
    "one client a process, ours": shared,
    "a client an operation, Beam's own": lambda path: filesystems.FileSystems,
  }
  try:
    for name, way in ways.items():
      object_stores.file_system = way
      print(
        f"{OBJECTS} objects of {OBJECT_BYTES:,} bytes, {name:34} {seconds_of(work, time.process_time):6.1f} s of CPU"
      )
  finally:
    object_stores.file_system = shared
    emulator.stop()


def bench() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--megabytes", type=int, default=400)
  namespace = parser.parse_args()
  common.print_machine()
  bench_safetensors(namespace.megabytes)
  bench_s3()


if __name__ == "__main__":
  bench()
