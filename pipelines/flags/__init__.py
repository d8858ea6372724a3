"""The command line: each flag is declared once, and read here alone."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.flags.declarations import FLAGS as FLAGS
  from pipelines.flags.parsing import parse as parse
  from pipelines.flags.parsing import parse_stages as parse_stages
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "declarations.FLAGS",
      "parsing.parse",
      "parsing.parse_stages",
    ),
  )
