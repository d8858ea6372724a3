"""Safetensors files: bytes that stay as they are, and that the library's own reader takes."""

import io
import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from curation.errors import DamagedError, WinnowError
from curation.models import safetensors_files


def written(array: np.ndarray) -> bytes:
  file = io.BytesIO()
  safetensors_files.write_array(file, array, name="a", key="what", content={"version": 3, "b": [1], "a": None})
  return file.getvalue()


@pytest.mark.parametrize(("array", "code"), [(np.arange(6, dtype=np.int32), "I32"), (np.ones(6, ">f4"), "F32")])
def test_files_keep_their_bytes_and_the_library_reads_them(array, code):
  """Kills: a header that is spaced or ordered in another way, for which a resumed run takes its own files for
  another's; numbers that are the other way round."""
  data = written(array.reshape(2, 3))
  content = '{"a": null, "b": [1], "version": 3}'.replace('"', r"\"")
  entry = f'{{"dtype": "{code}", "shape": [2, 3], "data_offsets": [0, 24]}}'
  header = f'{{"__metadata__": {{"what": "{content}"}}, "a": {entry}}}'.encode()
  header += b" " * (-len(header) % 8)
  little = array.astype(array.dtype.newbyteorder("<"))
  assert data == len(header).to_bytes(8, "little") + header + little.tobytes()
  np.testing.assert_array_equal(safetensors.numpy.load(data)["a"], array.reshape(2, 3))


def test_a_header_is_read_without_what_follows_it():
  """Kills: a reader that takes the whole file for its header's sake."""

  class Counted(io.BytesIO):
    taken = 0

    def read(self, size=-1):
      data = super().read(size)
      self.taken += len(data)
      return data

  file = Counted(written(np.zeros(1_000_000, np.float32)))
  header = safetensors_files.read_header(file)
  assert header.entries == {"a": safetensors_files.Entry("F32", (1_000_000,), 0, 4_000_000)}
  assert header.content("what", 3) == {"version": 3, "b": [1], "a": None}
  assert file.taken == header.start < 300


@pytest.mark.parametrize("length", [64, 10**15])
def test_a_header_that_is_too_long_is_refused_before_it_is_read(length):
  """Kills: memory that is taken because eight bytes ask for it."""
  data = bytearray(written(np.zeros(100, np.float32)))
  data[:8] = length.to_bytes(8, "little")
  with pytest.raises(ValueError, match="its header does not fit into it"):
    safetensors_files.read_header(io.BytesIO(bytes(data)), 63)


def test_only_the_files_own_faults_are_damage():
  """Kills: a sketch that is removed as damaged since its bucket does not answer just now."""
  sentence = r"^f is none \(its header is not valid JSON\): delete it and make it anew"
  with pytest.raises(DamagedError, match=sentence), safetensors_files.refusing("f", "is none"):
    safetensors_files.read_header(io.BytesIO((2).to_bytes(8, "little") + b"{["))
  with pytest.raises(WinnowError) as refusal, safetensors_files.refusing("f", "is none"):
    raise WinnowError("cannot read f: the network is down")
  assert not isinstance(refusal.value, DamagedError)


def test_what_the_library_refuses_is_refused_here_too():
  """Kills: a header that is taken here and nowhere else."""
  whole = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
  gap = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
  for header, size in ((whole, 8), (gap, 8), (whole, 3), (b"[]", 0), (b"{", 0)):
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    with pytest.raises(safetensors.SafetensorError):
      safetensors.numpy.load(data)
    with pytest.raises(ValueError):
      safetensors_files.read_header(io.BytesIO(data))
