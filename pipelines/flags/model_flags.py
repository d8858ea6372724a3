"""Flags of models and embeddings, which several scorers share; `declarations` joins them with all others."""

from pipelines.registry.command_names import CLUSTER, CURATE, DISTILL, EMBED, EVALUATE, LAUNCH, SCORE
from pipelines.registry.flag import BUCKET, Flag, path, paths
from pipelines.runners import accelerators
from pipelines.scorers.registry import reading_embeddings, running_models

_SCORING, _MODEL = (SCORE, CURATE), (EMBED, SCORE, CURATE)
_ENGINE = (*_MODEL, EVALUATE)

FLAGS = (
  Flag(
    "model",
    "Scorer",
    _MODEL,
    "the model: a rater, the T5 that computes perplexities, or a Sentence-T5; given as a Hugging Face folder, local or "
    "gs://, as a name on the hub (with @REVISION for a certain revision), or, except for a Sentence-T5, as a "
    "checkpoint_N folder of T5X; MinHash needs none",
    helps={
      EMBED: "the Sentence-T5, given as a Hugging Face folder, local or gs://, or as a name on the hub (with @REVISION "
      "for a certain revision)"
    },
    type=path,
    pattern=r"gs://.+|[\w.-]+(/[\w.-]+)?(@[\w./-]+)?",
  ),
  Flag(
    "models",
    "Scorer",
    (EVALUATE,),
    "the T5 models to evaluate, separated by commas: Hugging Face folders, local or gs://, names on the hub (with "
    "@REVISION for a certain revision), checkpoint_N folders of T5X, or globs of folders such as 'RUN/checkpoint_*'",
    type=paths,
    required=(EVALUATE,),
  ),
  Flag(
    "vocabulary",
    "Scorer",
    _ENGINE,
    "the model's SentencePiece file, local or gs://; needed for models of T5X, which keeps it elsewhere, and of "
    "transformers 5, which does not save it (default: spiece.model in the model's folder)",
    type=path,
    scorers=running_models(),
    pattern=BUCKET,
  ),
  Flag(
    "weigh_by",
    "Scorer",
    (EVALUATE,),
    "how several corpora become one figure: weigh every target token equally, as if they were one corpus, or weigh "
    "every corpus equally",
    default="tokens",
    choices=("tokens", "corpus"),
  ),
  Flag(
    "max_input_tokens",
    "Scorer",
    _ENGINE,
    "the most tokens of one model input: for Ask-LLM, of the whole prompt, in which only the document is truncated "
    "(default: 512); for perplexity, of the input made from each window of a document (default: 512); for embeddings, "
    "of the text (default: the model's own limit)",
    helps={
      EMBED: "the most tokens of a text; the rest of the text is left out (default: the model's own limit)",
      EVALUATE: "the most tokens of the input made from each window of a document (default: 512)",
    },
    type=int,
  ),
  Flag(
    "batch_tokens",
    "Scorer",
    _ENGINE,
    "tokens per batch; smaller batches need less memory (default: depends on the device)",
    type=int,
  ),
  Flag(
    "dtype",
    "Scorer",
    _ENGINE,
    "the type in which the model computes (default: float32 on CPUs, bfloat16 on accelerators)",
    choices=("float32", "bfloat16"),
  ),
  Flag(
    "devices_per_model",
    "Scorer",
    _ENGINE,
    "the number of devices that share one copy of a model that is too large for a single device",
    type=int,
    default=1,
  ),
  Flag(
    "accelerator",
    "Scorer",
    (*_ENGINE, LAUNCH),
    "the GPU or TPU on which Dataflow runs the model; --estimate takes it into account (default: none)",
    helps={
      EVALUATE: "the GPU or TPU on which Dataflow runs the models (default: none)",
      LAUNCH: "the kind of GPU that parts have, for --estimate",
    },
    choices=accelerators.names(),
  ),
  Flag(
    "estimate",
    "Scorer",
    (*_MODEL, LAUNCH),
    "estimate documents, tokens, hours and price from a sample of the input, then exit",
    helps={LAUNCH: "estimate the time and the memory of a part from a sample of the input, for --hours and --memory"},
    type=bool,
  ),
  Flag(
    "embeddings",
    "Scorer",
    (*_MODEL, CLUSTER),
    "embeddings made elsewhere, in place of --model: a glob of .npy or .parquet files, one per shard of the input in "
    "the order of their names, with one row per record",
    helps={CLUSTER: "the folder of the store of embeddings"},
    type=path,
    scorers=reading_embeddings(),
    required=(CLUSTER,),
    pattern=BUCKET,
  ),
  Flag(
    "embedding_name",
    "Store",
    (*_SCORING, DISTILL),
    "the name of the store of embeddings (default: embeddings_MODEL)",
    helps={DISTILL: "the name of the store of embeddings (default: the only one of the teacher's corpus)"},
    scorers=reading_embeddings(),
    pattern=r"\w+",
  ),
  Flag(
    "embedding_dtype",
    "Scorer",
    _MODEL,
    "the type in which embeddings are stored",
    default="float16",
    choices=("float16", "float32"),
    scorers=reading_embeddings(),
  ),
)
