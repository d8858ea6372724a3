"""Every flag of every command, declared once; Beam's own options come after them. `options` reads them.

Not PipelineOptions subclasses: two of those that share a flag break every pipeline in the process, `required=True` in
one ends unrelated pipelines, and a misspelt flag is only a warning there.
"""

from pipelines.flags import scorer_flags
from pipelines.flags.command_names import CLUSTER as CLUSTER
from pipelines.flags.command_names import COMMANDS as COMMANDS
from pipelines.flags.command_names import CURATE as CURATE
from pipelines.flags.command_names import DEMO as DEMO
from pipelines.flags.command_names import EMBED as EMBED
from pipelines.flags.command_names import EVALUATE as EVALUATE
from pipelines.flags.command_names import EXPLAIN as EXPLAIN
from pipelines.flags.command_names import REPORT as REPORT
from pipelines.flags.command_names import SAMPLE as SAMPLE
from pipelines.flags.command_names import SCORE as SCORE
from pipelines.flags.command_names import STATUS as STATUS
from pipelines.flags.command_names import VERIFY as VERIFY
from pipelines.flags.flag import BUCKET, Flag, path, paths
from pipelines.flags.scorer_names import ASK_LLM as ASK_LLM
from pipelines.flags.scorer_names import DENSITY as DENSITY
from pipelines.flags.scorer_names import DOMAIN as DOMAIN
from pipelines.flags.scorer_names import MINHASH as MINHASH
from pipelines.flags.scorer_names import OF_CLUSTERS as OF_CLUSTERS
from pipelines.flags.scorer_names import OF_EMBEDDINGS as OF_EMBEDDINGS
from pipelines.flags.scorer_names import PERPLEXITY as PERPLEXITY
from pipelines.flags.scorer_names import PROTOTYPES as PROTOTYPES
from pipelines.flags.scorer_names import RANDOM as RANDOM
from pipelines.flags.scorer_names import SCORERS as SCORERS
from pipelines.flags.scorer_names import SEMDEDUP as SEMDEDUP
from pipelines.output import formats

_SCORING, _SAMPLING, _READING = (SCORE, CURATE), (SAMPLE, CURATE), (EMBED, SCORE, SAMPLE, CURATE)
_CORPUS = (*_READING, EVALUATE)
_RATE = r"0?\.\d+|1(\.0*)?"
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
    "an output of winnow sample or winnow curate",
    type=path,
    positional=True,
  ),
  Flag("document", "What to look at", (EXPLAIN,), "SHARD#ROW, as an output's `source` has it", positional=True),
  Flag(
    "report",
    "Report",
    (REPORT,),
    "the folder for the page, report.html, and its tables as CSV files",
    type=path,
    required=(REPORT,),
  ),
  Flag(
    "recipe",
    "Recipe",
    (CURATE,),
    "the name of a recipe that comes with Winnow, such as paper/ask_llm_xl or d4, or a YAML file of flags and their "
    "values, local or gs://; a flag that is typed beside it takes the place of the recipe's",
    type=path,
    pattern=rf"{BUCKET}|[a-z0-9_]+(/[a-z0-9_]+)?",
  ),
  Flag(
    "input",
    "Corpus",
    (*_CORPUS, VERIFY, REPORT),
    "a glob of .jsonl or .json (plain, .gz, .zst), .parquet or .tfrecord* files, local, gs://, s3:// or "
    "hf://datasets/OWNER/NAME/...; or tfds:NAME/CONFIG:VERSION#SPLIT (default: train); "
    "winnow sample, verify and report take it from the store where it is not given; winnow evaluate: one or several, "
    "with commas between them",
    type=paths,
    required=(EMBED, SCORE, CURATE, EVALUATE),
    pattern=r"(gs://|s3://|hf://datasets/|tfds:).+",
  ),
  Flag(
    "scores",
    "Store",
    (*_CORPUS, VERIFY, EXPLAIN, REPORT),
    "the folder of score stores (winnow verify: where they are now, if they have moved; winnow evaluate: the folder "
    "for the stores and the figures)",
    type=path,
    required=(EMBED, SCORE, CURATE, EXPLAIN, REPORT, EVALUATE),
    pattern=BUCKET,
  ),
  Flag("scorer", "Scorer", _SCORING, "what scores the documents", default=ASK_LLM, choices=SCORERS),
  Flag(
    "name",
    "Store",
    _READING,
    "the store's name: letters, digits, underscores (default: SCORER_MODEL or embeddings_MODEL)",
    pattern=r"\w+",
  ),
  *scorer_flags.FLAGS,
  Flag(
    "text_field",
    "Corpus",
    _CORPUS,
    "the field that holds the text; content.text is the field text of the field content",
    default="text",
  ),
  Flag("url_field", "Corpus", _CORPUS, "the field that holds the url; may be absent", default="url"),
  Flag("timestamp_field", "Corpus", _CORPUS, "the field that holds the timestamp; may be absent", default="timestamp"),
  Flag(
    "tfds_data_dir",
    "Corpus",
    (*_CORPUS, VERIFY, REPORT),
    "the folder in which TFDS keeps its datasets",
    type=path,
    pattern=BUCKET,
  ),
  Flag(
    "max_zstd_window",
    "Corpus",
    _CORPUS,
    "MiB of memory that a reader of a .zst shard may take for its window; zstd --long=31 needs 2048, the most there is",
    type=int,
    default=2048,
  ),
  Flag(
    "block_rows",
    "Corpus",
    _CORPUS,
    "rows per block; an interrupted run repeats at most the blocks in progress",
    type=int,
    default=4096,
  ),
  Flag(
    "max_bad_fraction",
    "Corpus",
    _CORPUS,
    "fail if more than this share of the documents is bad; every bad document is in the dead letter",
    type=float,
    default=0.01,
  ),
  Flag(
    "sampler",
    "Sample",
    _SAMPLING,
    "the scorer whose scores select documents (winnow curate: --scorer)",
    choices=(*SCORERS, RANDOM),
    required=(SAMPLE,),
  ),
  Flag(
    "method",
    "Sample",
    _SAMPLING,
    "top_k keeps the highest scores, bottom_k the lowest, threshold every score of --threshold or more; ips draws "
    "documents with probability proportional to 1 / density, or to their perplexity (default: ips for density, top_k "
    "for others)",
    choices=("top_k", "bottom_k", "ips", "threshold"),
  ),
  Flag(
    "temperature",
    "Sample",
    _SAMPLING,
    "for --method=ips: raise weights to the power 1 / temperature; above 1 comes closer to random sampling",
    type=float,
    default=1.0,
  ),
  Flag("rate", "Sample", _SAMPLING, "the share of documents to keep, in (0, 1]", pattern=_RATE),
  Flag("num_examples", "Sample", _SAMPLING, "the number of documents to keep", type=int),
  Flag(
    "num_tokens",
    "Sample",
    _SAMPLING,
    "keep the best documents, in the sampler's order, whose tokens add up to this or less: the first that does not fit "
    "ends the sample",
    type=int,
  ),
  Flag("threshold", "Sample", _SAMPLING, "keep every document with this score or more", type=float),
  Flag(
    "percentile_range",
    "Sample",
    _SAMPLING,
    "keep the documents between two percentiles of the score, LOW:HIGH, such as 0.3:0.7 for the middle",
    pattern=r"[\d.]+:[\d.]+",
  ),
  Flag(
    "group_by",
    "Sample",
    _SAMPLING,
    "limit each group of documents to a quota, --group_rate or --group_max; without --rate or the like, everything "
    "within the quotas is selected; a document's domain is the registered domain of its url",
    choices=(DOMAIN,),
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
    (*_SAMPLING, REPORT),
    "seed of ties, random samples and the order of the output (winnow report: of the documents that it looks at)",
    type=int,
    default=0,
  ),
  Flag("num_shards", "Sample", _SAMPLING, "output shards (default: about 200 MB each, 1,024 at most)", type=int),
  Flag(
    "output",
    "Sample",
    (SAMPLE, CURATE, EXPLAIN, REPORT, DEMO),
    "the output folder (winnow report: one or several, with commas between them, or a glob)",
    type=paths,
    required=(SAMPLE, CURATE),
    pattern=BUCKET,
  ),
  Flag(
    "dataset_name",
    "Sample",
    _SAMPLING,
    "the name of the output's dataset, as TFDS and seqio know it: small letters, digits, underscores (default: made of "
    "the output folder's name)",
    pattern=r"[a-z][a-z0-9_]*",
  ),
  Flag(
    "rejected",
    "Sample",
    _SAMPLING,
    "a second output folder, for the scored documents that are not selected; the input is read once more for it",
    type=path,
    pattern=BUCKET,
  ),
  Flag(
    "output_format",
    "Sample",
    _SAMPLING,
    "the format of the output: TFRecords of tf.train.Example for TFDS and seqio, or JSON Lines or Parquet for other "
    "tools",
    default=formats.TFRECORD,
    choices=formats.NAMES,
  ),
  Flag(
    "overwrite",
    "Store",
    (*_CORPUS, CLUSTER, REPORT),
    "delete results of a different request, or a complete result, and start over",
    type=bool,
  ),
)
