"""Measures how much the weights 1 / density of different embeddings vary, and which flag makes them vary more.

Kernel sums are exact, without a sketch, so the result is a property of embeddings and kernel. The embeddings are the
demo embedder's, of the shared C4 sample if available, and synthetic ones: topics and noise in 768 dimensions, whose
pairs have a mean cosine of 0.7 or 0.9, as large encoders give. Shape suffixes: N points, D dimensions.
"""

import argparse

import common
import numpy as np
from bench_density import DOCUMENTS, embed_documents, variation

from curation.coverage import density, kernels

CORPORA = (None, 1_000_000)
TOPICS = 200


def concentrated(number: int, *, cosine: float, topics: float, effective: int) -> np.ndarray:
  """Makes unit vectors whose pairs have this mean cosine: float32 [N, 768].

  All vectors have a common part. `topics` is the share of a topic's centre in the rest; the k-th topic has weight 1/k.
  The remainder is noise in `effective` dimensions, whose lengths and angles vary more the fewer these are.
  """
  generator = np.random.default_rng(0)
  weights_K = 1 / np.arange(1, TOPICS + 1)
  topic_N = generator.choice(TOPICS, number, p=weights_K / weights_K.sum())
  basis_ED = np.linalg.qr(generator.standard_normal((768, effective)))[0].T
  centres_KD = generator.standard_normal((TOPICS, effective)) @ basis_ED / np.sqrt(effective)
  noise_ND = generator.standard_normal((number, effective)) @ basis_ED / np.sqrt(effective)
  common_D = generator.standard_normal(768) / np.sqrt(768)
  rest_ND = np.sqrt(topics) * centres_KD[topic_N] + np.sqrt(1 - topics) * noise_ND
  points_ND = np.sqrt(cosine) * common_D + np.sqrt(1 - cosine) * rest_ND
  return (points_ND / np.linalg.norm(points_ND, axis=1, keepdims=True)).astype(np.float32)


def settings(points_ND: np.ndarray) -> dict[str, kernels.Kernel]:
  """Returns the kernels to compare, the default first."""
  default = density.choose_kernel(points_ND)
  assert default.bandwidth is not None

  def narrower(by: float) -> kernels.Kernel:
    return kernels.Kernel("l2", default.bandwidth / by, default.hashes)

  return {
    "l2, the default": default,
    "l2, bandwidth / 1.5": narrower(1.5),
    "l2, bandwidth / 2": narrower(2),
    "l2, bandwidth / 3": narrower(3),
    "l2, 16 hashes": density.choose_kernel(points_ND, hashes=16),
    "l2, 32 hashes": density.choose_kernel(points_ND, hashes=32),
    "l1": density.choose_kernel(points_ND, "l1"),
    "angular": density.choose_kernel(points_ND, "angular"),
    "angular, 64 hashes": density.choose_kernel(points_ND, "angular", hashes=64),
    "angular, centred": density.choose_kernel(points_ND - points_ND.mean(axis=0), "angular"),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--number", type=int, default=2_500)
  number = parser.parse_args().number
  common.print_machine()
  sets = {f"demo embedder, {common.corpus_name()}": embed_documents(min(number, DOCUMENTS))}
  for cosine in (0.7, 0.9):
    for topics, effective in ((0.5, 64), (0.2, 64), (0.2, 768), (0.02, 768)):
      title = f"cosine {cosine}, topics {topics:.0%} of the rest, noise in {effective} dimensions"
      sets[title] = concentrated(number, cosine=cosine, topics=topics, effective=effective)
  for title, points_ND in sets.items():
    cosines = (points_ND[:1_000] @ points_ND[:1_000].T)[np.triu_indices(min(1_000, len(points_ND)), 1)]
    print(f"{title}: cosines {cosines.mean():.2f} ± {cosines.std():.3f}")
    for name, kernel in settings(points_ND).items():
      queries_MD = points_ND - points_ND.mean(axis=0) if name.endswith("centred") else points_ND
      others_M = kernel.sums(queries_MD[: len(queries_MD) // 5], queries_MD[len(queries_MD) // 5 :])
      results = []
      for corpus in CORPORA:
        scale = (corpus or len(points_ND)) / (len(points_ND) * 4 / 5)
        density_M = 1 + others_M * scale
        results.append(f"neighbours {np.median(density_M) - 1:,.3g}, weights vary by {variation(density_M):.3f}")
      width = "" if kernel.bandwidth is None else f", bandwidth {kernel.bandwidth:.3g}"
      print(f"    {name:<20} ({kernel.hashes} hashes{width}): {results[0]}; of 1,000,000: {results[1]}")


if __name__ == "__main__":
  main()
