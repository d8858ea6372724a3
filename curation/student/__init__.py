"""Students: small models that learn a rater's scores from embeddings, at a fraction of the rater's price."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from curation.student.learning import Examples as Examples
  from curation.student.learning import learn as learn
  from curation.student.models import Student as Student
  from curation.student.student_files import StudentFile as StudentFile
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "learning.Examples",
      "learning.learn",
      "models.Student",
      "student_files.StudentFile",
    ),
  )
