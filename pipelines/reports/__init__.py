"""The page of a report with its figures, and the figures of an evaluation."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.reports import evaluation as evaluation
  from pipelines.reports.figures import Figure as Figure
  from pipelines.reports.material import Output as Output
  from pipelines.reports.material import Sources as Sources
  from pipelines.reports.page import render as render
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__, names=("figures.Figure", "material.Output", "material.Sources", "page.render"), modules=("evaluation",)
  )
