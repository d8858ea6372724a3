"""The input: shards, their readers, and blocks whose borders depend on the files alone."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.corpus.blocks import Block as Block
  from pipelines.corpus.blocks import Fields as Fields
  from pipelines.corpus.blocks import Shard as Shard
  from pipelines.corpus.corpus import Corpus as Corpus
  from pipelines.corpus.inputs import find_shards as find_shards
  from pipelines.corpus.sources import Texts as Texts
  from pipelines.corpus.stripes import Spread as Spread
  from pipelines.corpus.stripes import Stripe as Stripe
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "blocks.Block",
      "blocks.Fields",
      "blocks.Shard",
      "corpus.Corpus",
      "inputs.find_shards",
      "sources.Texts",
      "stripes.Spread",
      "stripes.Stripe",
    ),
  )
