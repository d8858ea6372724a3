"""What a flag of a command is, and how flags are grouped; `flags` declares them."""

import dataclasses
from typing import Any

# In the order in which --help and a console show them.
GROUPS = {
  "What to look at": ("folder", "document"),
  "Report": ("report",),
  "Recipe": ("recipe",),
  "Corpus": ("input", "text_field", "url_field", "timestamp_field", "tfds_data_dir", "block_rows", "max_bad_fraction"),
  "Store": ("scores", "name", "embedding_name", "overwrite"),
  "Scorer": (
    *("scorer", "model", "models", "vocabulary", "prompt_file", "yes_token", "objective", "mask_seed"),
    *("max_input_tokens", "batch_tokens", "dtype", "devices_per_model"),
    *("embeddings", "embedding_dtype", "accelerator", "estimate"),
  ),
  "Density": (
    *("kernel", "bandwidth", "hashes", "sketch_rows", "sketch_counters", "sketch_seed", "correct_collisions"),
  ),
  "Clusters": (
    *("clusters", "num_clusters", "kmeans_sample", "kmeans_iterations", "lloyd_iterations", "kmeans_seed", "keep"),
    "max_cluster_pairs",
  ),
  "MinHash": ("similarity", "minhash_bands", "minhash_rows"),
  "Sample": (
    *("sampler", "method", "temperature", "rate", "num_examples", "num_tokens", "threshold"),
    *("percentile_range", "seed", "group_by", "group_rate", "group_max"),
    *("output", "output_format", "num_shards", "rejected"),
  ),
}


@dataclasses.dataclass(frozen=True)
class Flag:
  """One flag: the commands that have it, its help, and how its value is read."""

  name: str
  commands: tuple[str, ...]
  help: str
  type: Any = str
  default: Any = None
  choices: tuple[str, ...] | None = None
  scorers: tuple[str, ...] = ()
  """Those that it means anything to; none: all."""
  required: tuple[str, ...] = ()
  """The commands that cannot do without it."""
  pattern: str | None = None
  """What a console takes for it: a regular expression of the whole value, where workers are other machines."""

  positional: bool = False
  """Given by its place alone, without its name."""

  @property
  def group(self) -> str:
    return next(group for group, names in GROUPS.items() if self.name in names)

  def is_given(self, value: Any) -> bool:
    """Tells whether a value says more than the default does."""
    return bool(value) if self.type is bool else value is not None and value != self.default

  def add_to(self, parser: Any) -> None:
    if self.type is bool:
      parser.add_argument(f"--{self.name}", action="store_true", help=self.help)
      return
    if self.positional:
      parser.add_argument(self.name, metavar=self.name.upper(), help=self.help)
      return
    shown = "" if self.default is None else f" (default: {self.default})"
    parser.add_argument(
      f"--{self.name}",
      type=self.type,
      default=self.default,
      choices=self.choices,
      metavar=None if self.choices else self.name.upper(),
      help=(self.help + shown).replace("%", "%%"),
    )
