"""Every flag of every command, declared once; Beam's own options come after them. `parsing` reads them.

They are not subclasses of PipelineOptions. Two of those that share a flag break every pipeline in the process,
`required=True` in one ends unrelated pipelines, and a misspelt flag is only a warning.
"""

import collections

from curation.errors import WinnowError
from pipelines.flags import cascade_flags, distill_flags, launch_flags, model_flags
from pipelines.output.formats import registry as formats
from pipelines.registry.command_names import (
  CLUSTER,
  CURATE,
  DEMO,
  DISTILL,
  EMBED,
  EVALUATE,
  EXPLAIN,
  IN_PARTS,
  REPORT,
  SAMPLE,
  SCORE,
  STATUS,
  VERIFY,
)
from pipelines.registry.flag import BUCKET, Flag, path, paths
from pipelines.scorers import registry as scorers

_SCORING, _SAMPLING, _READING = (SCORE, CURATE), (SAMPLE, CURATE), (EMBED, SCORE, SAMPLE, CURATE)
_CORPUS = (*_READING, EVALUATE)
_RATE = r"0?\.\d+|1(\.0*)?"
_FILES = (
  "a glob of .jsonl or .json (plain, .gz, .zst), .parquet or .tfrecord* files, local, gs://, s3:// or "
  "hf://datasets/OWNER/NAME/...; or tfds:NAME/CONFIG:VERSION#SPLIT (without #SPLIT: train)"
)
_MOVED = "if the input has moved since it was scored:"
FLAGS = (
  Flag(
    "folder",
    "What to look at",
    (STATUS,),
    "a score store, or a folder that holds score stores",
    type=path,
    positional=True,
  ),
  Flag(
    "output_folder",
    "What to look at",
    (VERIFY,),
    "the folder of an output, with its manifest.json",
    type=path,
    positional=True,
  ),
  Flag(
    "document",
    "What to look at",
    (EXPLAIN,),
    "the document, as SHARD#ROW; each record of an output has this name in its field `source`",
    positional=True,
  ),
  Flag(
    "report",
    "Report",
    (REPORT,),
    "the folder for the page, report.html, for its tables as CSV files, and for dataset_card.md",
    type=path,
    required=(REPORT,),
  ),
  Flag("open", "Report", (DEMO,), "open the report in a browser at the end", type=bool),
  Flag(
    "recipe",
    "Recipe",
    (CURATE,),
    "the name of a recipe that comes with Winnow, such as paper/ask_llm_xl or d4, or a YAML file of flags and their "
    "values, local or gs://; flags on the command line override those of the recipe",
    type=path,
    pattern=rf"{BUCKET}|[a-z0-9_]+(/[a-z0-9_]+)?",
  ),
  Flag(
    "input",
    "Corpus",
    (*_CORPUS, VERIFY, REPORT),
    f"the corpus: {_FILES}",
    helps={
      SAMPLE: f"{_MOVED} {_FILES}; a random sample without --scores needs it too",
      VERIFY: f"{_MOVED} {_FILES}",
      REPORT: f"{_MOVED} {_FILES}",
      EVALUATE: f"the validation sets, separated by commas, each of them {_FILES}",
    },
    type=paths,
    required=(EMBED, SCORE, CURATE, EVALUATE),
    pattern=r"(gs://|s3://|hf://datasets/|tfds:).+",
  ),
  Flag(
    "scores",
    "Store",
    (*_CORPUS, DISTILL, VERIFY, EXPLAIN, REPORT),
    "the folder that holds the score stores, each in a folder of its own",
    helps={
      VERIFY: "the folder that holds the score stores, if they have moved since the output was made",
      EVALUATE: "the folder for the figures, and for the score stores that they are computed from",
    },
    type=path,
    required=(EMBED, SCORE, CURATE, DISTILL, EXPLAIN, REPORT, EVALUATE),
    pattern=BUCKET,
  ),
  Flag(
    "scorer",
    "Scorer",
    _SCORING,
    "the scorer that scores the documents",
    default=scorers.DEFAULT,
    choices=scorers.choices(),
  ),
  Flag(
    "name",
    "Store",
    _READING,
    "the store's name, of letters, digits and underscores (default: SCORER_MODEL, such as ask_llm_flan_t5_xl)",
    helps={
      EMBED: "the store's name, of letters, digits and underscores (default: embeddings_MODEL)",
      SAMPLE: "the store to draw from, if --scores holds several for the sampler",
    },
    pattern=r"\w+",
  ),
  *model_flags.FLAGS,
  *scorers.flags(),
  *distill_flags.FLAGS,
  Flag(
    "text_field",
    "Corpus",
    _CORPUS,
    "the field that holds the text; content.text means the field text inside the field content",
    default="text",
  ),
  Flag("url_field", "Corpus", _CORPUS, "the field that holds the url; documents may lack it", default="url"),
  Flag(
    "timestamp_field",
    "Corpus",
    _CORPUS,
    "the field that holds the timestamp; documents may lack it",
    default="timestamp",
  ),
  Flag(
    "tfds_data_dir",
    "Corpus",
    (*_CORPUS, VERIFY, REPORT),
    "the folder where TFDS keeps its datasets",
    type=path,
    pattern=BUCKET,
  ),
  Flag(
    "max_zstd_window",
    "Corpus",
    _CORPUS,
    "the largest window of a .zst shard that is read, in MiB; a reader needs as much memory for it; zstd --long=31 "
    "needs 2048, the largest that there is",
    type=int,
    default=2048,
  ),
  Flag(
    "block_rows",
    "Corpus",
    _CORPUS,
    "rows per block; after an interruption, at most the blocks in progress are done again",
    type=int,
    default=4096,
  ),
  Flag(
    "max_bad_fraction",
    "Corpus",
    _CORPUS,
    "fail if more than this share of the documents is bad; bad documents are listed in dead_letter, with the reason",
    type=float,
    default=0.01,
  ),
  Flag(
    "sampler",
    "Sample",
    _SAMPLING,
    "the scorer whose scores select the documents, or random",
    helps={CURATE: "the scorer whose scores select the documents, or random (default: --scorer)"},
    choices=(*scorers.choices(), scorers.RANDOM),
    required=(SAMPLE,),
  ),
  Flag(
    "method",
    "Sample",
    _SAMPLING,
    "top_k keeps the highest scores, bottom_k the lowest, and threshold every score of at least --threshold; ips draws "
    "each document with probability proportional to 1 / density, or to its perplexity (default: ips for density, top_k "
    "for the others)",
    choices=("top_k", "bottom_k", "ips", "threshold"),
  ),
  Flag(
    "temperature",
    "Sample",
    _SAMPLING,
    "for --method=ips: raise the weights to the power 1 / temperature; above 1, the sample is closer to a random one",
    type=float,
    default=1.0,
  ),
  Flag(
    "rate",
    "Sample",
    _SAMPLING,
    "the share of documents to keep, in (0, 1]; in its place, --num_examples, --num_tokens, --threshold or "
    "--percentile_range can say how much to keep",
    pattern=_RATE,
  ),
  Flag("num_examples", "Sample", _SAMPLING, "the number of documents to keep", type=int),
  Flag(
    "num_tokens",
    "Sample",
    _SAMPLING,
    "keep documents in the sampler's order, best first, as long as their tokens add up to this or less; the first that "
    "does not fit ends the sample",
    type=int,
  ),
  Flag("threshold", "Sample", _SAMPLING, "keep every document whose score is at least this", type=float),
  Flag(
    "percentile_range",
    "Sample",
    _SAMPLING,
    "keep the documents whose scores lie between two percentiles, LOW:HIGH, such as 0.3:0.7 for the middle",
    pattern=r"[\d.]+:[\d.]+",
  ),
  Flag(
    "group_by",
    "Sample",
    _SAMPLING,
    "limit each group of documents to a quota, set by --group_rate or --group_max; without --rate or another amount, "
    "select everything within the quotas; a document's domain is the registered domain of its url",
    choices=("domain",),
  ),
  Flag(
    "group_rate", "Sample", _SAMPLING, "the largest share of each group's documents that may be selected", pattern=_RATE
  ),
  Flag(
    "group_max", "Sample", _SAMPLING, "the largest number of documents of each group that may be selected", type=int
  ),
  Flag(
    "seed",
    "Sample",
    (*_SAMPLING, DISTILL, REPORT),
    "seed for ties, for random samples and for the order of the output",
    helps={
      DISTILL: "seed for the choice of documents, their split and the first weights",
      REPORT: "seed for the sample of documents that the report examines",
    },
    type=int,
    default=0,
  ),
  Flag(
    "num_shards",
    "Sample",
    _SAMPLING,
    "the number of output shards (default: shards of about 200 MB each, at most 1,024)",
    type=int,
  ),
  Flag(
    "output",
    "Sample",
    (SAMPLE, CURATE, EXPLAIN, REPORT, DEMO),
    "the output folder",
    helps={
      EXPLAIN: "the folder of an output; with it, explain also says why the output has the document or not",
      REPORT: "the outputs to compare: one folder or several, separated by commas, or a glob",
      DEMO: "the folder for everything that the demo makes (default: demo-output)",
    },
    type=paths,
    required=(SAMPLE, CURATE),
    pattern=BUCKET,
  ),
  Flag(
    "dataset_name",
    "Sample",
    _SAMPLING,
    "the name of the output's dataset in TFDS and seqio, of lower-case letters, digits and underscores (default: "
    "derived from the name of the output folder)",
    pattern=r"[a-z][a-z0-9_]*",
  ),
  Flag(
    "rejected",
    "Sample",
    _SAMPLING,
    "a second output folder, for the scored documents that are not selected; the input is read once more to write it",
    type=path,
    pattern=BUCKET,
  ),
  Flag(
    "output_format",
    "Sample",
    _SAMPLING,
    "the format of the output: TFRecords of tf.train.Example for TFDS and seqio, or JSON Lines or Parquet for other "
    "tools",
    default=formats.DEFAULT,
    choices=tuple(formats.FORMATS),
  ),
  *cascade_flags.FLAGS,
  Flag(
    "overwrite",
    "Store",
    (*_CORPUS, CLUSTER, DISTILL, REPORT),
    "delete results of a different request, or a complete result, and start over",
    helps={
      CURATE: "delete an earlier output and scores of a different request, and start over; scores that fit stay",
      REPORT: "replace an earlier report",
    },
    type=bool,
  ),
  Flag(
    "part",
    "Parts",
    IN_PARTS,
    "do part I of N, given as I/N with I from 0 to N-1: tasks of a cluster, one for each part, share the work of the "
    "command without any runner, and each ends once all is done; see docs/parts.md",
    pattern=r"\d+/\d+",
  ),
  Flag(
    "part_timeout",
    "Parts",
    IN_PARTS,
    "the seconds for which a part waits for others while nothing new comes from them; then it fails, and can be "
    "started again",
    type=float,
    default=21_600,
  ),
  Flag(
    "part_steal",
    "Parts",
    IN_PARTS,
    "once its own share is done, have this part do what others have not begun; and what they have begun, if nothing "
    "new comes from them for a tenth of --part_timeout",
    type=bool,
  ),
  *launch_flags.FLAGS,
)


def _refuse_repeated() -> None:
  """Raises WinnowError if a package's scorer brings a flag with a name that is taken."""
  for name, count in collections.Counter(flag.name for flag in FLAGS).items():
    if count > 1:
      owner = next(scorer for scorer, entry in scorers.SCORERS.items() if name in {flag.name for flag in entry.flags})
      raise WinnowError(f"the scorer {owner} brings the flag --{name}, and there is one of that name; rename it")


_refuse_repeated()
