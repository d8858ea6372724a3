"""Every flag of every command, declared once; Beam's own options come after them. `options` reads them.

Not PipelineOptions subclasses: two of those that share a flag break every pipeline in the process, `required=True` in
one ends unrelated pipelines, and a misspelt flag is only a warning there.
"""

from pipelines import accelerators, formats
from pipelines.flag import Flag

EMBED, CLUSTER, SCORE, SAMPLE, CURATE, DEMO = "embed", "cluster", "score", "sample", "curate", "demo"
STATUS, VERIFY, EXPLAIN, REPORT, EVALUATE = "status", "verify", "explain", "report", "evaluate"
COMMANDS = {
  EMBED: "embed every document of a corpus once, for the samplers that look at coverage",
  CLUSTER: "find clusters of a store of embeddings by k-means, and the one of every document",
  SCORE: "score every document of a corpus once, into a score store",
  SAMPLE: "draw an exact sample from scored documents, as TFRecords for T5X",
  CURATE: "score, then sample when the store is complete, in one job",
  STATUS: "what of a score store is there, what is missing, and how long it will take, from the store alone",
  VERIFY: "recompute all that can be of an output, and say the first thing that is not so",
  EXPLAIN: "a document's scores, where they stand among all, and why it was selected or not",
  REPORT: "one page about a corpus's scores and the outputs drawn by them: charts, examples, figures as CSV",
  EVALUATE: "the perplexity of checkpoints of training runs on validation sets: figures and their curve",
  DEMO: "a whole run on this machine's own documents: no arguments, no network",
}
_SCORING, _SAMPLING, _READING = (SCORE, CURATE), (SAMPLE, CURATE), (EMBED, SCORE, SAMPLE, CURATE)
_CORPUS, _OBJECTIVE = (*_READING, EVALUATE), (*_SCORING, EVALUATE)
_MODEL = (EMBED, SCORE, CURATE)
_ENGINE = (*_MODEL, EVALUATE)
ASK_LLM, PERPLEXITY, DENSITY, RANDOM, MINHASH = "ask_llm", "perplexity", "density", "random", "minhash"
SEMDEDUP, PROTOTYPES = OF_CLUSTERS = "semdedup", "prototypes"
OF_EMBEDDINGS, _CLUSTERING = (DENSITY, *OF_CLUSTERS), (CLUSTER, SCORE, CURATE)
_SCORERS = (ASK_LLM, PERPLEXITY, *OF_EMBEDDINGS, MINHASH)
DOMAIN = "domain"
_BUCKET = "gs://[a-z0-9][-a-z0-9_.]*/.+"
_RATE = r"0?\.\d+|1(\.0*)?"

FLAGS = (
  Flag("folder", (STATUS, VERIFY), "a score store or a folder of them (status), an output (verify)", positional=True),
  Flag("document", (EXPLAIN,), "SHARD#ROW, as an output's `source` has it", positional=True),
  Flag(
    "report",
    (REPORT,),
    "the folder that gets the page, report.html, and its tables as CSV files",
    required=(REPORT,),
  ),
  Flag(
    "recipe",
    (CURATE,),
    "a YAML file, local or gs://, of flags and their values, such as recipes/paper/ask_llm_xl.yaml; what is typed "
    "beside it counts more",
    pattern=_BUCKET,
  ),
  Flag(
    "input",
    (*_CORPUS, VERIFY, REPORT),
    "a glob of .jsonl or .json (plain, .gz, .zst), .parquet or .tfrecord* files, local, gs://, s3:// or "
    "hf://datasets/OWNER/NAME/...; or tfds:NAME/CONFIG:VERSION#SPLIT (default: train); "
    "winnow sample, verify and report take it from the store where it is not given; winnow evaluate: one or several, "
    "with commas between them",
    required=(EMBED, SCORE, CURATE, EVALUATE),
    pattern=r"(gs://|s3://|hf://datasets/|tfds:).+",
  ),
  Flag(
    "scores",
    (*_CORPUS, VERIFY, EXPLAIN, REPORT),
    "the folder of score stores (winnow verify: where they are now, if they moved; winnow evaluate: of the stores and "
    "the figures)",
    required=(EMBED, SCORE, CURATE, EXPLAIN, REPORT, EVALUATE),
    pattern=_BUCKET,
  ),
  Flag("scorer", _SCORING, "what scores the documents", default=ASK_LLM, choices=_SCORERS),
  Flag(
    "name",
    _READING,
    "the store's name: letters, digits, underscores (default: SCORER_MODEL or embeddings_MODEL); names the output "
    "dataset too "
    "(default: the output folder's name)",
    pattern=r"\w+",
  ),
  Flag(
    "model",
    _MODEL,
    "the rater, the T5 of a perplexity, or the Sentence-T5 that embeds: a Hugging Face folder, local or gs://, or a "
    "name on the hub, with @REVISION if need be; or, but for what embeds, a checkpoint_N folder of T5X",
    pattern=r"gs://.+|[\w.-]+(/[\w.-]+)?(@[\w./-]+)?",
  ),
  Flag(
    "models",
    (EVALUATE,),
    "the T5 to evaluate, each as --model names it: one or several with commas between them, or globs of their folders, "
    "such as 'RUN/checkpoint_*'",
    required=(EVALUATE,),
  ),
  Flag(
    "vocabulary",
    _OBJECTIVE,
    "the model's SentencePiece file, local or gs://, which T5X keeps elsewhere (default: spiece.model in the model's "
    "folder)",
    scorers=(ASK_LLM, PERPLEXITY),
    pattern=_BUCKET,
  ),
  Flag(
    "prompt_file",
    _SCORING,
    "a text file, local or gs://, with one {document}, in place of the paper's prompt",
    scorers=(ASK_LLM,),
    pattern=_BUCKET,
  ),
  Flag(
    "yes_token",
    _SCORING,
    "the answer whose probability is the score: one piece",
    default="yes",
    scorers=(ASK_LLM,),
  ),
  Flag(
    "objective",
    _OBJECTIVE,
    "what the T5 was pre-trained to predict: spans that are taken out of a text (15% of it), or how a text goes on",
    default="span_corruption",
    choices=("span_corruption", "prefix_lm"),
    scorers=(PERPLEXITY,),
  ),
  Flag(
    "mask_seed",
    _OBJECTIVE,
    "draws the spans, or where a prefix ends, of every document",
    type=int,
    default=0,
    scorers=(PERPLEXITY,),
  ),
  Flag(
    "max_input_tokens",
    _ENGINE,
    "tokens of the whole prompt (default: 512), of which only the document is cut; of the inputs that a perplexity "
    "cuts documents into (default: 512); or of a text to embed (default: the model's own)",
    type=int,
  ),
  Flag("batch_tokens", _ENGINE, "tokens per batch; fewer need less memory (default: by device)", type=int),
  Flag(
    "dtype",
    _ENGINE,
    "arithmetic of the model (default: float32 on CPUs, bfloat16 on accelerators)",
    choices=("float32", "bfloat16"),
  ),
  Flag(
    "devices_per_model",
    _ENGINE,
    "devices that hold one model together, where one has no room for it",
    type=int,
    default=1,
  ),
  Flag(
    "accelerator",
    _ENGINE,
    "the GPU or TPU that the stage with the model gets on Dataflow, and that --estimate reckons with (default: none)",
    choices=accelerators.names(),
  ),
  Flag(
    "estimate",
    _MODEL,
    "reckon documents, tokens, hours and price from a sample of the input, and do nothing",
    type=bool,
  ),
  Flag(
    "embeddings",
    (*_MODEL, CLUSTER),
    "in place of --model, embeddings made elsewhere: a glob of .npy or .parquet files, one for each shard of the input "
    "in the order of their names, with a row for each record (winnow cluster: the store that winnow embed made)",
    scorers=OF_EMBEDDINGS,
    required=(CLUSTER,),
    pattern=_BUCKET,
  ),
  Flag(
    "embedding_name",
    _SCORING,
    "the name of the store of embeddings (default: embeddings_MODEL)",
    scorers=OF_EMBEDDINGS,
    pattern=r"\w+",
  ),
  Flag(
    "embedding_dtype",
    _MODEL,
    "how embeddings are kept",
    default="float16",
    choices=("float16", "float32"),
    scorers=OF_EMBEDDINGS,
  ),
  Flag(
    "kernel",
    _SCORING,
    "what a document's neighbours weigh: by L2 or L1 distance, or by angle",
    default="l2",
    choices=("l2", "l1", "angular"),
    scorers=(DENSITY,),
  ),
  Flag("bandwidth", _SCORING, "the kernel's width (default: chosen from the data)", type=float, scorers=(DENSITY,)),
  Flag(
    "hashes",
    _SCORING,
    "hashes that a row of the sketch joins; more tell near from far better, and take longer (default: chosen)",
    type=int,
    scorers=(DENSITY,),
  ),
  Flag("sketch_rows", _SCORING, "rows of the sketch, R", type=int, default=1000, scorers=(DENSITY,)),
  Flag("sketch_counters", _SCORING, "counters of a row, B", type=int, default=20_000, scorers=(DENSITY,)),
  Flag("sketch_seed", _SCORING, "draws the sketch's hashes", type=int, default=0, scorers=(DENSITY,)),
  Flag(
    "correct_collisions",
    _SCORING,
    "take the documents that share a counter by chance off the density, down to 1",
    type=bool,
    scorers=(DENSITY,),
  ),
  Flag(
    "clusters",
    _CLUSTERING,
    "the store of clusters, which is made where it is missing (default: clusters_MODEL beside the embeddings)",
    scorers=OF_CLUSTERS,
    pattern=_BUCKET,
  ),
  Flag("num_clusters", _CLUSTERING, "clusters, k", type=int, default=10_000, scorers=OF_CLUSTERS),
  Flag(
    "kmeans_sample",
    _CLUSTERING,
    "documents a cluster, of the sample that centroids are trained on by one worker, in its memory",
    type=int,
    default=256,
    scorers=OF_CLUSTERS,
  ),
  Flag("kmeans_iterations", _CLUSTERING, "of k-means on the sample", type=int, default=20, scorers=OF_CLUSTERS),
  Flag(
    "lloyd_iterations",
    _CLUSTERING,
    "further iterations of k-means, on all documents",
    type=int,
    default=0,
    scorers=OF_CLUSTERS,
  ),
  Flag(
    "kmeans_seed",
    _CLUSTERING,
    "draws the sample and the first centroids, and settles SemDeDup's ties",
    type=int,
    default=0,
    scorers=OF_CLUSTERS,
  ),
  Flag(
    "keep",
    _SCORING,
    "which documents of a cluster SemDeDup ranks first, and so keeps of those that are alike: the nearest to the "
    "centroid, the farthest, or any",
    default="nearest",
    choices=("nearest", "farthest", "random"),
    scorers=(SEMDEDUP,),
  ),
  Flag(
    "max_cluster_pairs",
    _SCORING,
    "pairs of documents in a cluster, above which SemDeDup splits it by a second k-means and compares within pieces "
    "alone; the default is a cluster of 447,000, twelve times the mean of 364M documents in 10,000 clusters",
    type=int,
    default=10**11,
    scorers=(SEMDEDUP,),
  ),
  Flag(
    "similarity",
    _SCORING,
    "the Jaccard similarity of their runs of five words from which two documents are near-copies, in (0, 1]",
    type=float,
    default=0.8,
    scorers=(MINHASH,),
  ),
  Flag(
    "minhash_bands",
    _SCORING,
    "bands of a signature: documents are compared if they agree in all hashes of one of them",
    type=int,
    default=16,
    scorers=(MINHASH,),
  ),
  Flag("minhash_rows", _SCORING, "hashes in each of those bands", type=int, default=8, scorers=(MINHASH,)),
  Flag("text_field", _CORPUS, "the field that holds the text", default="text"),
  Flag("url_field", _CORPUS, "the field that holds the url; may be absent", default="url"),
  Flag("timestamp_field", _CORPUS, "the field that holds the timestamp; may be absent", default="timestamp"),
  Flag("tfds_data_dir", (*_CORPUS, VERIFY, REPORT), "where TFDS keeps its datasets", pattern=_BUCKET),
  Flag("block_rows", _CORPUS, "rows per block: what a resumed run may lose", type=int, default=4096),
  Flag(
    "max_bad_fraction",
    _CORPUS,
    "the run fails if more of the documents are bad; all bad ones are in the dead letter",
    type=float,
    default=0.01,
  ),
  Flag(
    "sampler",
    _SAMPLING,
    "whose scores select (winnow curate: the scorer)",
    choices=(*_SCORERS, RANDOM),
    required=(SAMPLE,),
  ),
  Flag(
    "method",
    _SAMPLING,
    "the highest scores, the lowest, all of --threshold or more, or a draw by inverse propensity, 1 / score (default: "
    "ips for density, top_k for others)",
    choices=("top_k", "bottom_k", "ips", "threshold"),
  ),
  Flag(
    "temperature",
    _SAMPLING,
    "of --method=ips: weights to the power of 1 / temperature; above 1 is nearer to a random sample",
    type=float,
    default=1.0,
  ),
  Flag("rate", _SAMPLING, "the share of documents to keep, in (0, 1]", pattern=_RATE),
  Flag("num_examples", _SAMPLING, "the number of documents to keep", type=int),
  Flag("num_tokens", _SAMPLING, "keep the most documents that fit this many tokens", type=int),
  Flag("threshold", _SAMPLING, "keep every document with this score or more", type=float),
  Flag(
    "percentile_range",
    _SAMPLING,
    "keep the documents between two percentiles of the score, LOW:HIGH, such as 0.3:0.7 for the middle",
    pattern=r"[\d.]+:[\d.]+",
  ),
  Flag(
    "group_by",
    _SAMPLING,
    "set each group a quota, --group_rate or --group_max: its best documents within that can be selected, and all of "
    "them are where nothing else says how many; a domain is the registered one of a url",
    choices=(DOMAIN,),
  ),
  Flag("group_rate", _SAMPLING, "the share of each group's documents that can be selected", pattern=_RATE),
  Flag("group_max", _SAMPLING, "the number of each group's documents that can be selected", type=int),
  Flag(
    "seed",
    (*_SAMPLING, REPORT),
    "settles ties, random samples and the order of the output (winnow report: which documents it looks at)",
    type=int,
    default=0,
  ),
  Flag("num_shards", _SAMPLING, "output shards (default: about 200 MB each, 1,024 at most)", type=int),
  Flag(
    "output",
    (SAMPLE, CURATE, EXPLAIN, REPORT, DEMO),
    "the output folder (winnow report: one or several, with commas between them, or a glob)",
    required=(SAMPLE, CURATE),
    pattern=_BUCKET,
  ),
  Flag(
    "rejected",
    _SAMPLING,
    "another output folder, for the scored documents that are not selected; the input is read once more for it",
    pattern=_BUCKET,
  ),
  Flag(
    "output_format",
    _SAMPLING,
    "how the output is written: TFRecords of tf.train.Example for TFDS and seqio, or files for everything else",
    default=formats.TFRECORD,
    choices=formats.NAMES,
  ),
  Flag(
    "overwrite",
    (*_CORPUS, CLUSTER, REPORT),
    "start over: what is there of another request goes, and all of it if it is complete",
    type=bool,
  ),
)
