"""Student files: reading returns what was written, and refuses anything else."""

import io
import json

import numpy as np
import pytest
import safetensors.numpy

from curation.errors import DamagedError
from curation.student import student_files
from curation.student.models import Shape, Student

SHAPE = Shape(5, 3, True)


def student() -> student_files.StudentFile:
  weights = np.random.default_rng(0).standard_normal(SHAPE.num_weights).astype(np.float32)
  told = {"request": {"seed": 0}, "embedder": "whose", "made_with": {"model": "m"}}
  return student_files.StudentFile(
    Student(SHAPE, weights), **told, documents={"used": 9}, choice={}, figures={"spearman": 0.5}
  )


def written(what: student_files.StudentFile) -> bytes:
  file = io.BytesIO()
  student_files.save(what, file)
  return file.getvalue()


def with_header(data: bytes, change) -> bytes:
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])
  content = json.loads(header["__metadata__"]["winnow_student"])
  change(header, content)
  header["__metadata__"]["winnow_student"] = json.dumps(content)
  head = json.dumps(header).encode()
  return len(head).to_bytes(8, "little") + head + data[8 + length :]


def test_what_is_read_is_what_was_written():
  """The safetensors library reads the same. Kills: a header that other readers do not take; a part that is lost."""
  data = written(student())
  loaded = student_files.load(io.BytesIO(data), "s")
  np.testing.assert_array_equal(loaded.student.weights, student().student.weights)
  assert loaded[1:] == student()[1:] and loaded.student.shape == SHAPE
  assert loaded.digest == student().digest and data == written(student())
  np.testing.assert_array_equal(safetensors.numpy.load(data)["weights"], student().student.weights)
  assert student()._replace(embedder="other").digest != student().digest


@pytest.mark.parametrize("start", range(13))
def test_a_turned_bit_is_told(start):
  """In the figures too. Kills the mutant whose checksum covers the weights alone."""
  data, told = written(student()), 0
  for place in range(start, len(data), 13):
    turned = bytearray(data)
    turned[place] ^= 4
    try:
      loaded = student_files.load(io.BytesIO(bytes(turned)), "folder/s")
    except DamagedError as error:
      assert str(error).startswith("folder/s holds no student, or is damaged (") and "\n" not in str(error)
      told += 1
    else:  # a space or a name of the header that nobody reads
      assert loaded.digest == student().digest
  assert told > 0.9 * len(range(start, len(data), 13))


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_a_file_that_breaks_off_is_told(size):
  with pytest.raises(DamagedError, match="holds no student, or is damaged"):
    student_files.load(io.BytesIO(written(student())[:size]), "s")


@pytest.mark.parametrize(
  "sizes",
  [{"dimensions": 1 << 40}, {"hidden": 1 << 30}, {"dimensions": -5}, {"hidden": 2.5}, {"has_length": 1}, {"x": 1}],
)
def test_a_header_that_lies_is_told_before_anything_is_allocated(sizes):
  """Kills: memory that is taken because a header asks for it, in either place that tells a size."""

  def change(header, content):
    content["shape"] |= sizes

  with pytest.raises(DamagedError, match="holds no student, or is damaged"):
    student_files.load(io.BytesIO(with_header(written(student()), change)), "s")

  def enlarge(header, content):
    change(header, content)
    header["weights"]["shape"] = [1 << 50]

  with pytest.raises(DamagedError, match="holds no student, or is damaged"):
    student_files.load(io.BytesIO(with_header(written(student()), enlarge)), "s")


def test_weights_that_are_not_finite_are_told():
  weights = student().student.weights.copy()
  weights[3] = np.nan
  with pytest.raises(ValueError, match="not finite"):
    Student(SHAPE, weights)


def test_another_version_is_told(monkeypatch):
  monkeypatch.setattr(student_files, "FORMAT_VERSION", 2)
  data = written(student())
  monkeypatch.undo()
  with pytest.raises(DamagedError, match="it is of version 2, and this is version 1"):
    student_files.load(io.BytesIO(data), "s")
