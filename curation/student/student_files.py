"""Student files: a safetensors file of a student's weights, whose header says what it was learned from and how well.

A file may come from anywhere: sizes are checked before memory is allocated, and a file holds numbers and JSON alone.
"""

import hashlib
import json
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np

from curation.models import safetensors_files
from curation.student.models import Shape, Student

FORMAT_VERSION = 1
_METADATA, _TENSOR = "winnow_student", "weights"
_MAX_HEADER_BYTES = 4 << 20
_FIELDS = {"request": dict, "embedder": str, "made_with": dict, "documents": dict, "choice": dict, "figures": dict}


class StudentFile(NamedTuple):
  """The content of a file: a student, and JSON that describes it."""

  student: Student
  request: dict[str, Any]
  """What the student was asked for: the fingerprints of the teacher's store and of the embeddings, and the split."""
  embedder: str
  """The digest of what made the embeddings; those of anything else are refused."""
  made_with: dict[str, str]
  """The names of the model or the embeddings, by flags."""
  documents: dict[str, Any]
  """The counts of documents: of the teacher's store, of those without an embedding, and of each part."""
  choice: dict[str, Any]
  figures: dict[str, Any]

  @property
  def digest(self) -> str:
    """A digest by which two files can tell whether they hold the same student."""
    digest = hashlib.blake2b(json.dumps(_content(self), sort_keys=True).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(self.student.weights, "<f4").data)
    return digest.hexdigest()


def save(student: StudentFile, file: IO[bytes]) -> None:
  """Writes a student into a binary file: 4 bytes for each weight, and a header."""
  content = _content(student) | {"checksum": student.digest}
  safetensors_files.write_array(file, student.student.weights, name=_TENSOR, key=_METADATA, content=content)


def load(file: BinaryIO, path: str) -> StudentFile:
  """Reads what `save` wrote; raises a DamagedError that names `path` for anything else, before memory is allocated."""
  with safetensors_files.refusing(path, "holds no student, or is damaged"):
    header = safetensors_files.read_header(file, _MAX_HEADER_BYTES)
    content = header.content(_METADATA, FORMAT_VERSION)
    shape = Shape(**content["shape"])
    wanted = safetensors_files.Entry("F32", (shape.num_weights,), 0, 4 * shape.num_weights)
    if header.entries != {_TENSOR: wanted}:
      raise ValueError("its header is not one of a student")
    if not all(isinstance(content[name], kind) for name, kind in _FIELDS.items()):
      raise ValueError("its header is not one of a student")
    file.seek(header.start)
    weights = np.frombuffer(file.read(wanted.end), "<f4").astype(np.float32)
    loaded = StudentFile(Student(shape, weights), **{name: content[name] for name in _FIELDS})
    if loaded.digest != content["checksum"]:
      raise ValueError("it does not fit its checksum")
    return loaded


def _content(student: StudentFile) -> dict[str, Any]:
  shape = {name: getattr(student.student.shape, name) for name in ("dimensions", "hidden", "has_length")}
  return {"version": FORMAT_VERSION, "shape": shape, **{name: getattr(student, name) for name in _FIELDS}}
