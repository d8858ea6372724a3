"""Kinds of stores: what a store holds of each document, as the columns of its files, and when a value is a bad one.

Most stores hold scores. Those of embeddings, clusters and signatures are read by other scorers, block by block.
Legend: N documents, D dimensions or hashes.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from pipelines.corpus import fixed_width

SCORE, EMBEDDING, SIGNATURE = "score", "embedding", "signature"
EMBED, CLUSTER, SIGN, COUNT = "embed", "cluster", "sign", "count"  # scorers whose stores are not of scores
ROW = pa.field("row", pa.int64())
SCORE_FIELD = pa.field(SCORE, pa.float32())
CLUSTER_FIELDS = (pa.field("cluster", pa.int32()), pa.field("cosine", pa.float32()))
NUM_TOKENS = pa.field("num_tokens", pa.int32())
DOMAIN = pa.field("domain", pa.string())
SHARD = pa.field("shard", pa.dictionary(pa.int32(), pa.string()))


@dataclasses.dataclass(frozen=True)
class Kind:
  """A store of scores, float32 [N]; a score that is NaN is a bad one, since no key could order it."""

  plural: str
  """The values of many documents, such as "embeddings"."""
  contents: str
  """The contents of a store as `winnow status` names them."""
  verb: str
  """A document with a value of this kind was "scored", or "embedded"."""
  title: str
  """The work on it, as users see its progress."""
  keeps_blocks: bool = False
  """Values stay in the files of their blocks, since nothing is gained by moving what is large and read by block."""
  shard_fields: tuple[pa.Field, ...] = (SCORE_FIELD,)
  """Columns of values in the file of a shard."""

  def columns(self, values: np.ndarray) -> dict[pa.Field, pa.Array]:
    """Returns the columns of a block's values."""
    return {SCORE_FIELD: pa.array(values, pa.float32())}

  def reasons(self, values: np.ndarray) -> dict[str, np.ndarray]:
    """Returns which values are bad, bool [N], by the reason."""
    return {"score_is_nan": np.isnan(values)}

  def has_columns(self, fields: tuple[pa.Field, ...]) -> bool:
    """Tells whether these are the columns of values in the file of a block."""
    return [field.name for field in fields] == [SCORE]


@dataclasses.dataclass(frozen=True)
class _Clusters(Kind):
  """The cluster of each document and the cosine to its centroid: records of `cluster` and `cosine` [N]."""

  def columns(self, values: np.ndarray) -> dict[pa.Field, pa.Array]:
    return {field: pa.array(np.ascontiguousarray(values[field.name])) for field in CLUSTER_FIELDS}

  def reasons(self, values: np.ndarray) -> dict[str, np.ndarray]:
    return {"score_is_nan": np.isnan(values["cosine"])}

  def has_columns(self, fields: tuple[pa.Field, ...]) -> bool:
    return fields == CLUSTER_FIELDS


@dataclasses.dataclass(frozen=True)
class _Vectors(Kind):
  """One column of vectors [N, D], whose values take the same number of bytes each."""

  column: str = EMBEDDING

  def columns(self, values: np.ndarray) -> dict[pa.Field, pa.Array]:
    array = fixed_width.column(values)
    return {pa.field(self.column, array.type): array}

  def reasons(self, values: np.ndarray) -> dict[str, np.ndarray]:
    return {}

  def has_columns(self, fields: tuple[pa.Field, ...]) -> bool:
    return [field.name for field in fields] == [self.column]


@dataclasses.dataclass(frozen=True)
class _Embeddings(_Vectors):
  """Embeddings; one that is not finite, or of zeros alone, is a bad one, since it has no direction."""

  def reasons(self, values: np.ndarray) -> dict[str, np.ndarray]:
    is_finite_N = np.isfinite(values).all(axis=1)
    return {"embedding_is_not_finite": ~is_finite_N, "embedding_is_zero": is_finite_N & ~values.any(axis=1)}


_KINDS = {
  EMBED: _Embeddings("embeddings", "embeddings", "embedded", "embedding", True, ()),
  CLUSTER: _Clusters("clusters", "clusters", "clustered", "assigning clusters", True, CLUSTER_FIELDS),
  SIGN: _Vectors(
    "signatures",
    "MinHash signatures",
    "MinHash signature computed",
    "computing MinHash signatures",
    True,
    (),
    SIGNATURE,
  ),
  COUNT: Kind("scores", "a count of documents", "counted", "counting documents"),
}


def kind_of(scorer: str) -> Kind:
  """Returns the kind of the stores that a scorer fills: scores, unless it is one of the four above."""
  return _KINDS.get(scorer) or Kind("scores", f"{scorer} scores", "scored", f"scoring ({scorer})")


def are_known(fields: tuple[pa.Field, ...]) -> bool:
  """Tells whether these are the columns of values in a block's file of some kind."""
  return any(kind.has_columns(fields) for kind in _KINDS.values())
