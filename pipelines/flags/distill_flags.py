"""Flags of `winnow distill`; `declarations` joins them with all others."""

from pipelines.registry.command_names import DISTILL
from pipelines.registry.flag import Flag

FLAGS = (
  Flag(
    "teacher",
    "Student",
    (DISTILL,),
    "the name of the store with the rater's scores; it may hold those of a part of the corpus only",
    required=(DISTILL,),
    pattern=r"\w+",
  ),
  Flag(
    "max_documents",
    "Student",
    (DISTILL,),
    "the most documents to learn from, chosen by a hash; one worker needs about 2 KB of disk for each",
    type=int,
    default=1_000_000,
  ),
)
