"""The exact selection over scores: thresholds, quotas of groups, and the survivors of a stage."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.selection.limits import make_limits as make_limits
  from pipelines.selection.ranks import Ranks as Ranks
  from pipelines.selection.ranks import rank_rows as rank_rows
  from pipelines.selection.survivors import Survivors as Survivors
  from pipelines.selection.thresholds import FindThreshold as FindThreshold
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "limits.make_limits",
      "ranks.Ranks",
      "ranks.rank_rows",
      "survivors.Survivors",
      "thresholds.FindThreshold",
    ),
  )
