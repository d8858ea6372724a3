"""What `--scorer` can name: how each scorer is described, fingerprinted and loaded on a worker.

The launcher calls `checked()`, which makes sure of all that can be made sure of without computing, `request()`, the
scorer's part of the fingerprint, and `engine()`, what of `describe()` is known without a device; workers call `load()`.
A loaded scorer has four methods. `describe()`: how it computes, JSON-able. `warm_up()`: what must happen once before
the first document. `prepare(column)`: the host's work for one block, thread-safe, from the column of its documents that
the description's `reads` names. `run(prepared, on_batch)`: the block's scores; what takes long for a block calls
`on_batch` now and then with the documents that are done.

What embeds is described here too: its results are embeddings in place of scores, and go to a store of their own. What
runs a T5 over texts is in `pipelines.scorers.t5.base`.
"""

from typing import Any, Self

from pipelines.files import storage
from pipelines.store.score_store import ScoreStore


class Own:
  """A description that is its own scorer: nothing is loaded, and nothing must happen first."""

  speed = 200_000.0
  """Documents a second that one core is expected to do."""

  def checked(self) -> Self:
    return self

  def engine(self) -> dict[str, Any]:
    return {}

  def load(self) -> Self:
    return self

  def describe(self) -> dict[str, Any]:
    return self.engine()

  def warm_up(self) -> None:
    """Needs nothing."""


def engine_of(name: str, store: ScoreStore) -> dict[str, Any]:
  """What is known, once there is a store to read from, of how scores of what is in it are computed."""
  return {name: store.fingerprint_with_engine()} if storage.exists(store.engine_path) else {}
