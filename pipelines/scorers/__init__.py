"""Scorers: one folder for each family, and the registry of all that `--scorer` can name."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.scorers.entry import Cost as Cost
  from pipelines.scorers.entry import Entry as Entry
  from pipelines.scorers.entry import Stored as Stored
  from pipelines.scorers.registry import SCORERS as SCORERS
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "entry.Cost",
      "entry.Entry",
      "entry.Stored",
      "registry.SCORERS",
    ),
  )
