"""The choice of example documents for a report, from its sample.

Shape suffixes: N documents of the sample, S scorers, R raters.
"""

import math
from typing import NamedTuple

import numpy as np

from curation.selection import hashing, metrics
from pipelines.reports.material import Output, Sources
from pipelines.reports.passes import Sample

GROUP_SIZE = 3
_MOST_FILES = 16
_MOST_COMPARED = 3
_LOOKED_AT = 1_000
AGREE, PART, SCORERS_PART = "where raters agree", "where raters disagree", "where scorers disagree"
WITHOUT_THRESHOLD = "outputs without a threshold"
COMPARED = "kept by one output and not by another"


class Group(NamedTuple):
  """Examples of one kind: the part of the page, the name, the scorers by which they were chosen, and their positions
  in the sample, in order."""

  section: str
  name: str
  by: tuple[str, ...]
  places: list[int]


def choose(sources: Sources, sample: Sample) -> list[Group]:
  """Chooses the groups of examples. No document is in two of them.

  For each scorer that outputs were drawn by: the best and the worst documents, and those on both sides of each output's
  threshold. An output that is drawn by chance has no threshold, so some of its documents are shown, and some of the
  others. For raters: where they agree, and where the largest and the smallest part (paper,
  Appendix E). For outputs: documents that one keeps and another does not.
  """
  chooser = _Chooser(sources, sample)
  outputs = _different(sources.outputs)
  by_scorer: dict[str, list[int]] = {}
  cut = [number for number in outputs if threshold_of(sources.outputs[number]) is not None]
  for number in outputs:
    if (name := sources.scorer_of(sources.outputs[number])) is not None:
      by_scorer.setdefault(name, []).extend([number] if number in cut else [])
  if not by_scorer:
    by_scorer = {name: [] for name in sources.raters or tuple(sources.scorers)[:1]}
  groups = []
  for name in sources.scorers:
    if name in by_scorer:
      groups += _by_scorer(chooser, sources, sample, name, by_scorer[name])
  for number in outputs:
    if number not in cut:
      name, kept_N = sources.outputs[number].name, sample.kept_ON[number]
      groups += [
        chooser.group(WITHOUT_THRESHOLD, f"in {name}", (), chooser.hash_N, kept_N),
        chooser.group(WITHOUT_THRESHOLD, f"not in {name}", (), chooser.hash_N, ~kept_N),
      ]
  groups += _by_raters(chooser, sources, sample)
  for first, second in [(outputs[0], other) for other in outputs[1 : 1 + _MOST_COMPARED]] if outputs else []:
    for one, other in ((first, second), (second, first)):
      name = f"in {sources.outputs[one].name}, not in {sources.outputs[other].name}"
      only_N = sample.kept_ON[one] & ~sample.kept_ON[other]
      groups.append(chooser.group(COMPARED, name, (), chooser.hash_N, only_N))
  return groups


class _Chooser:
  """Chooses documents for one group after another, each document once, from at most 16 files of the input."""

  def __init__(self, sources: Sources, sample: Sample):
    self.hash_N = sample.table["hash"].to_numpy()
    self.scores_SN = sample.scores_SN
    shard_names = [shard.name for shard in sources.shards]
    order = np.argsort([hashing.hash_documents("report", 0, name, np.zeros(1, np.int64))[0] for name in shard_names])
    self.is_free_N = np.isin(sample.table["shard"].to_numpy(), order[:_MOST_FILES])
    self._shown: set[bytes] = set()

  def group(
    self, section: str, name: str, by: tuple[str, ...], key_N: np.ndarray, wanted_N: np.ndarray | None = None
  ) -> Group:
    """Chooses the wanted documents with the smallest keys, of which NaN is none; hashes break ties.

    Documents with the same score by every scorer are most likely copies, so one of them comes before other documents
    that look the same.
    """
    is_candidate_N = self.is_free_N & ~np.isnan(key_N)
    if wanted_N is not None:
      is_candidate_N &= wanted_N
    place_N = np.flatnonzero(is_candidate_N)
    if len(place_N) > _LOOKED_AT:  # cheaper than sorting half a million keys for a few documents
      place_N = place_N[key_N[place_N] <= np.partition(key_N[place_N], _LOOKED_AT)[_LOOKED_AT]]
    ordered = place_N[np.lexsort((self.hash_N[place_N], key_N[place_N]))].tolist()[:_LOOKED_AT]
    chosen: list[int] = []
    alike: list[int] = []
    for place in ordered:
      if len(chosen) == GROUP_SIZE:
        break
      scores = self.scores_SN[:, place].tobytes()
      (alike if scores in self._shown else chosen).append(place)
      self._shown.add(scores)
    # A scorer of few values gives many documents the same score.
    chosen = sorted([*chosen, *alike[: GROUP_SIZE - len(chosen)]], key=ordered.index)
    self.is_free_N[chosen] = False
    return Group(section, name, by, chosen)


def _different(outputs: tuple[Output, ...]) -> list[int]:
  """Returns the numbers of the outputs, without those that another one's threshold has made as well."""
  seen: dict[tuple[str, int, str], int] = {}
  for number in sorted(range(len(outputs)), key=lambda number: outputs[number].rejected):
    output = outputs[number]
    seen.setdefault((output.store.folder, output.floor, repr(output.request)), number)
  return sorted(seen.values())


def threshold_of(output: Output) -> float | None:
  """Returns the score from which an output holds documents; None if it is drawn by chance."""
  score = output.manifest["threshold"].get("score")
  return score if isinstance(score, float | int) and math.isfinite(score) else None


def ends_of(output: Output) -> list[float]:
  """Returns the threshold of an output, and of a percentile range the score at its upper end too, if it has one."""
  threshold = threshold_of(output)
  return [end for end in (threshold, output.ceiling) if threshold is not None and end is not None]


def _by_scorer(chooser: _Chooser, sources: Sources, sample: Sample, name: str, numbers: list[int]) -> list[Group]:
  scores_N = sample.scores_SN[list(sources.scorers).index(name)].astype(np.float64)
  section, by = f"by {name}", (name,)
  if not numbers:
    return [
      chooser.group(section, "highest score", by, -scores_N),
      chooser.group(section, "lowest score", by, scores_N),
    ]
  sign = -1 if sources.outputs[numbers[0]].request.method == "bottom_k" else 1
  groups = [chooser.group(section, "best", by, -sign * scores_N)]
  for number in numbers:
    output = sources.outputs[number]
    sign_here = -1 if output.request.method == "bottom_k" else 1
    threshold = threshold_of(output) or 0.0
    is_selected_N = sample.kept_ON[number] ^ output.rejected
    is_below_N = ~is_selected_N & (sign_here * scores_N <= sign_here * threshold)
    groups += [
      chooser.group(section, f"just above the threshold of {output.name}", by, sign_here * scores_N, is_selected_N),
      chooser.group(section, f"just below the threshold of {output.name}", by, -sign_here * scores_N, is_below_N),
    ]
    if output.ceiling is not None:  # of a percentile range, which goes by the highest scores
      is_above_N = ~is_selected_N & (scores_N >= output.ceiling)
      groups += [
        chooser.group(section, f"just below the upper end of {output.name}", by, -scores_N, is_selected_N),
        chooser.group(section, f"just above the upper end of {output.name}", by, scores_N, is_above_N),
      ]
  return [*groups, chooser.group(section, "worst", by, sign * scores_N)]


def _by_raters(chooser: _Chooser, sources: Sources, sample: Sample) -> list[Group]:
  """Returns the groups of the paper's Appendix E (E.1 to E.4), of the scorers of the whole corpus.

  Without two raters, the first two scorers are compared; they do not agree, since they measure different things.
  """
  names = list(sources.scorers)
  raters = [name for name in sources.raters if name not in sources.stages]
  compared = raters if len(raters) > 1 else [name for name in names if name not in sources.stages][:2]
  if len(compared) < 2:
    return []
  percentiles_RN = np.stack([metrics.percentiles(sample.scores_SN[names.index(name)]) for name in compared])
  mean_N, rise_N = percentiles_RN.mean(axis=0), percentiles_RN[-1] - percentiles_RN[0]
  small, large = compared[0], compared[-1]
  section = PART if compared == raters else SCORERS_PART
  groups = [
    chooser.group(section, f"higher by {large} than by {small}", (small, large), -rise_N),
    chooser.group(section, f"higher by {small} than by {large}", (small, large), rise_N),
  ]
  if compared == raters:
    groups += [
      chooser.group(AGREE, "high by all", tuple(raters), -mean_N),
      chooser.group(AGREE, "low by all", tuple(raters), mean_N),
    ]
  return groups
