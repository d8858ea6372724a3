"""Students as scorers of the registry."""

import argparse
from typing import TYPE_CHECKING

from curation.errors import WinnowError
from pipelines.registry.command_names import CURATE, DISTILL, SCORE
from pipelines.registry.flag import BUCKET, Flag, path, require
from pipelines.scorers.entry import EMBEDDINGS, Cost, Entry, Stored

if TYPE_CHECKING:
  from curation.student.student_files import StudentFile
  from pipelines.scorers.student.scorer import Student

FLAGS = (
  Flag(
    "student",
    "Student",
    (DISTILL, SCORE, CURATE),
    "the folder of the student that scores; its embeddings are those of its own model, unless other flags name them",
    helps={DISTILL: "the folder for the student"},
    type=path,
    required=(DISTILL,),
    pattern=BUCKET,
  ),
)


def describe(namespace: argparse.Namespace, stored: Stored) -> "Student":
  from pipelines.scorers.student import artifacts
  from pipelines.scorers.student.scorer import Student

  assert stored.embeddings is not None
  file, folder = _read(namespace), _folder(namespace)
  if stored.embeddings.embedder != file.embedder:
    learned = " ".join(f"--{name}={value}" for name, value in file.made_with.items())
    raise WinnowError(
      f"--student={namespace.student} has learned from other embeddings than those of "
      f"{stored.embeddings.store.folder}: give it those of {learned}, in the same version and with the same limits"
    )
  return Student(artifacts.student_path(folder), file.digest, file.student.operations, stored.embeddings)


def settle(namespace: argparse.Namespace) -> None:
  """Takes the model, or the embeddings made elsewhere, from the student, unless flags name them."""
  if namespace.model is None and namespace.embeddings is None:
    for name, value in _read(namespace).made_with.items():
      if name not in namespace.given:
        setattr(namespace, name, value)


def default_name(namespace: argparse.Namespace) -> str:
  from pipelines.scorers.t5 import model_files

  return f"student_{model_files.model_name(_folder(namespace))}"


def cost(namespace: argparse.Namespace, documents: float, texts: list[str]) -> Cost:
  """Counts the operations of the student, beside which reading embeddings is not counted."""
  del texts
  operations = documents * _read(namespace).student.operations
  return Cost("the student", "reading embeddings not counted", operations=operations)


def _folder(namespace: argparse.Namespace) -> str:
  from pipelines.corpus import inputs

  require(namespace, "student")
  return inputs.absolute(namespace.student).rstrip("/")


def _read(namespace: argparse.Namespace) -> "StudentFile":
  from pipelines.scorers.student import artifacts

  return artifacts.read(_folder(namespace))


ENTRY = Entry(
  name="student",
  reads=EMBEDDINGS,
  describe=describe,
  settle=settle,
  default_name=default_name,
  unit="score by the student",
  cost=cost,
  flags=FLAGS,
)
