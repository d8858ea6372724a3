"""The folder of a student.

STUDENT/request.json         what the student was asked for, written first
        student.safetensors  the student and its figures; the first writer wins
        figures.json         the same figures for readers; written last
        work/                documents to learn from, until the student is complete
        log/                 what each run did
"""

from curation.errors import WinnowError
from curation.student import student_files
from curation.student.student_files import StudentFile
from pipelines.files import fingerprints, storage

STUDENT_FILE, FIGURES_FILE, WORK_FOLDER = "student.safetensors", "figures.json", "work"
FORMAT = 1


def student_path(folder: str) -> str:
  return storage.join(folder, STUDENT_FILE)


def read_file(path: str) -> StudentFile:
  """Reads a student file. Raises DamagedError."""
  with storage.open_input(path) as file:
    return student_files.load(file, path)


def read(folder: str) -> StudentFile:
  """Reads the student in a folder. Raises WinnowError if there is none, and DamagedError if it is damaged."""
  path = student_path(folder)
  if not storage.exists(path):
    is_begun = storage.exists(storage.join(folder, fingerprints.REQUEST_FILE))
    advice = "run its winnow distill command again" if is_begun else "name the folder that winnow distill made"
    raise WinnowError(f"--student={folder} holds no complete student; {advice}")
  return read_file(path)
