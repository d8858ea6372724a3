"""Scoring: blocks in, scores on record. It is common to all scorers, and knows none of them."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.scoring.description import Description as Description
  from pipelines.scoring.description import OverStore as OverStore
  from pipelines.scoring.description import Own as Own
  from pipelines.scoring.description import Scorer as Scorer
  from pipelines.scoring.description import Scores as Scores
  from pipelines.scoring.preparation import Preparation as Preparation
  from pipelines.scoring.preparation import PreparationConfig as PreparationConfig
  from pipelines.scoring.preparation import Summary as Summary
  from pipelines.scoring.scoring import Score as Score
  from pipelines.scoring.scoring import ScoringConfig as ScoringConfig
  from pipelines.scoring.stored_blocks import StoredBlocks as StoredBlocks
  from pipelines.scoring.stored_blocks import StoredEmbeddings as StoredEmbeddings
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "description.Description",
      "description.OverStore",
      "description.Own",
      "description.Scorer",
      "description.Scores",
      "preparation.Preparation",
      "preparation.PreparationConfig",
      "preparation.Summary",
      "scoring.Score",
      "scoring.ScoringConfig",
      "stored_blocks.StoredBlocks",
      "stored_blocks.StoredEmbeddings",
    ),
  )
