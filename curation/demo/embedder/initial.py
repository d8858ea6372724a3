"""Initial weights of the demo embedder: an encoder that already computes a latent semantic analysis.

This embedder is trained for a few hundred steps, which from random weights do not get as far as counting words does.

Shape suffixes as in `curation.models.t5`; N texts, F factors, O dimensions of an embedding.
"""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from curation.models import checkpoints, t5, training
from curation.models.vocabulary import Tokens

# A mean does not take the logarithm of counts, so common tokens need less weight than in TF-IDF. Before any training,
# 53% of the halves of held-out documents matched, and 44% at a power of 1.
_IDF_POWER = 1.5


def random_params(model: t5.T5Config, dimensions: int, seed: int) -> t5.Params:
  """Draws random float32 weights: the tree of an encoder with `dense_OD`."""
  generator = np.random.default_rng([seed, 2])
  tensors = training.random_tensors(model, generator, added=0.1, encoder_only=True)
  tensors["shared.weight"] *= np.float32(model.d_model**0.5)
  dense_OD = generator.standard_normal((dimensions, model.d_model)) * model.d_model**-0.5
  return checkpoints.build_params(tensors, model) | {"dense_OD": dense_OD.astype(np.float32)}


def initial_params(model: t5.T5Config, tokens: Tokens, seed: int) -> t5.Params:
  """Returns `random_params` of D dimensions with another embedding and projection.

  A token's embedding holds its factors. Its last channel pads it to the length of the longest embedding, so that the
  encoder's final norm leaves a rare token larger than a common one. The projection drops that channel.
  """
  params = random_params(model, model.d_model, seed)
  factors_VF = token_factors(tokens, model.vocab_size, factors=model.d_model - 1)
  sizes_V = np.linalg.norm(factors_VF, axis=1)
  longest = np.quantile(sizes_V, 0.95)
  factors_VF *= (np.minimum(1, longest / np.maximum(sizes_V, 1e-12)))[:, None]
  rest_V = np.sqrt(np.maximum(0, longest**2 - np.sum(factors_VF**2, axis=1)))
  embedding_VD = np.column_stack([factors_VF, rest_V]) * (model.d_model**0.5 / longest)
  dense_OD = np.eye(model.d_model, dtype=np.float32)
  dense_OD[-1, -1] = 0
  return params | {"embedding_VD": embedding_VD.astype(np.float32), "dense_OD": dense_OD}


def token_factors(tokens: Tokens, size: int, *, factors: int) -> np.ndarray:
  """Computes factors of tokens, whose mean over a text is the text's factors: float64 [V, F].

  The factors are the right singular vectors of the texts' TF-IDF (Deerwester et al. 1990). They are multiplied by
  inverse document frequency and divided by the roots of the singular values, so that the few topics that all texts
  share do not outweigh the others.
  """
  lengths_N = tokens.lengths()
  rows = np.repeat(np.arange(len(lengths_N)), lengths_N)
  shape = (len(lengths_N), size)
  counts_NV = scipy.sparse.csr_array((np.ones(len(rows)), (rows, tokens.ids)), shape=shape)
  counts_NV.sum_duplicates()
  texts_V = np.bincount(counts_NV.indices, minlength=size)
  idf_V = np.log((1 + len(lengths_N)) / (1 + texts_V)) ** _IDF_POWER
  weights_NV = counts_NV.log1p() @ scipy.sparse.diags_array(idf_V)
  sizes_N = scipy.sparse.linalg.norm(weights_NV, axis=1)
  weights_NV = scipy.sparse.diags_array(1 / np.maximum(sizes_N, 1e-12)) @ weights_NV
  _, values_F, right_FV = scipy.sparse.linalg.svds(weights_NV, k=factors, v0=np.ones(min(shape)))
  return idf_V[:, None] * right_FV.T / np.sqrt(values_F)
