"""Commands, flags, and registries: the things of each kind that Winnow and installed packages bring."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.registry.entries import Registry as Registry
  from pipelines.registry.flag import Flag as Flag
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "entries.Registry",
      "flag.Flag",
    ),
  )
