"""Exact selection of documents, independent of the order in which they are read, and measures of scores."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from curation.selection.domains import registered_domains as registered_domains
  from curation.selection.hashing import hash_documents as hash_documents
  from curation.selection.metrics import kendall_tau as kendall_tau
  from curation.selection.metrics import over_scaling as over_scaling
  from curation.selection.metrics import percentiles as percentiles
  from curation.selection.quotas import Quotas as Quotas
  from curation.selection.selection import Search as Search
  from curation.selection.selection import SelectionRequest as SelectionRequest
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "domains.registered_domains",
      "hashing.hash_documents",
      "metrics.kendall_tau",
      "metrics.over_scaling",
      "metrics.percentiles",
      "quotas.Quotas",
      "selection.Search",
      "selection.SelectionRequest",
    ),
  )
