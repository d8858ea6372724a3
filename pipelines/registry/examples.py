"""Two or more examples of each command, which its help and the reference show."""

from collections.abc import Iterable
from typing import NamedTuple

from pipelines.registry import command_names

_WIDTH = 76  # with an indent of two, a line and its backslash fit into 80 columns


def cut(words: Iterable[str]) -> list[str]:
  """Returns a command line as short lines, which a shell joins again. `words` are quoted where a shell needs it."""
  lines = [""]
  for word in words:
    if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
      lines[-1] += " \\"
      lines.append("   ")
    lines[-1] += f" {word}" if lines[-1] else word
  return lines


class Example(NamedTuple):
  """A command line, whose arguments hold no spaces, and what it does."""

  text: str
  line: str

  def shown(self) -> list[str]:
    """Returns the lines of the example as one types it, after a comment."""
    return [f"# {self.text}", *cut(self.line.split())]


TOP_LEVEL = (
  Example(
    "score the files of a corpus", "winnow score --input='c4/*.json.gz' --model=google/flan-t5-small --scores=scores"
  ),
  Example("write the best fifth", "winnow sample --scores=scores --sampler=ask_llm --rate=0.2 --output=best"),
)
"""The examples in the help of winnow itself."""

EXAMPLES = {
  command_names.DEMO: (
    Example("run the demo in demo-output, and open its report", "winnow demo --open"),
    Example("write to another folder, with two processes", "winnow demo --output=other-demo --direct_num_workers=2"),
  ),
  command_names.SCORE: (
    Example(
      "ask a Flan-T5 from the hub how useful each document is",
      "winnow score --input='c4/*.json.gz' --model=google/flan-t5-small --scores=scores",
    ),
    Example(
      "find near-copies by MinHash, which needs no model, with all cores",
      "winnow score --scorer=minhash --input='c4/*.json.gz' --scores=scores --direct_num_workers=0",
    ),
  ),
  command_names.EMBED: (
    Example(
      "embed every document with a Sentence-T5 from the hub",
      "winnow embed --input='c4/*.json.gz' --model=sentence-transformers/sentence-t5-base --scores=scores",
    ),
    Example(
      "take embeddings that were made elsewhere, one file per shard",
      "winnow embed --input='c4/*.json.gz' --embeddings='vectors/*.npy' --scores=scores",
    ),
  ),
  command_names.CLUSTER: (
    Example(
      "find 1,000 clusters, in a store beside the embeddings",
      "winnow cluster --embeddings=scores/embeddings_sentence_t5_base --num_clusters=1000",
    ),
    Example(
      "refine the clusters on all documents, and keep them in a folder of their own",
      "winnow cluster --embeddings=scores/embeddings_sentence_t5_base --lloyd_iterations=5 --clusters=scores/refined",
    ),
  ),
  command_names.DISTILL: (
    Example(
      "learn from a rater's scores, by the embeddings of the same corpus",
      "winnow distill --scores=scores --teacher=ask_llm_flan_t5_xl --embedding_name=embeddings_sentence_t5_base "
      "--student=students/xl",
    ),
    Example(
      "learn from 100,000 of the scored documents, and replace an earlier student",
      "winnow distill --scores=scores --teacher=ask_llm_flan_t5_xl --max_documents=100000 --student=students/xl "
      "--overwrite",
    ),
  ),
  command_names.STATUS: (
    Example("show every score store of a folder", "winnow status scores"),
    Example("show one store", "winnow status scores/ask_llm_flan_t5_small"),
  ),
  command_names.SAMPLE: (
    Example(
      "keep the fifth with the highest scores",
      "winnow sample --scores=scores --sampler=ask_llm --rate=0.2 --output=best",
    ),
    Example(
      "draw a million documents at random, from the corpus alone, as JSON Lines",
      "winnow sample --input='c4/*.json.gz' --sampler=random --num_examples=1000000 --output=random "
      "--output_format=jsonl",
    ),
  ),
  command_names.CURATE: (
    Example(
      "score, and keep the fifth with the highest scores",
      "winnow curate --input='c4/*.json.gz' --model=google/flan-t5-small --scores=scores --rate=0.2 --output=best",
    ),
    Example(
      "run a recipe of several stages that comes with Winnow",
      "winnow curate --recipe=d4 --input='c4/*.json.gz' --model=sentence-transformers/sentence-t5-base "
      "--scores=scores --output=d4",
    ),
    Example(
      "ask a large rater only about documents that a small one cannot rule out",
      "winnow curate --input='c4/*.json.gz' --model=google/flan-t5-xl --proxy=ask_llm_flan_t5_small --recall=0.95 "
      "--scores=scores --rate=0.1 --output=best_xl",
    ),
  ),
  command_names.REPORT: (
    Example("make a page about all scores of a folder", "winnow report --scores=scores --report=report"),
    Example(
      "compare two samples, and replace an earlier report",
      "winnow report --scores=scores --output=best,random --report=report --overwrite",
    ),
  ),
  command_names.EXPLAIN: (
    Example(
      "show the scores of the document in row 17 of a shard",
      "winnow explain 'c4-train.00000-of-01024.json.gz#17' --scores=scores",
    ),
    Example(
      "also show why it is in a sample or not",
      "winnow explain 'c4-train.00000-of-01024.json.gz#17' --scores=scores --output=best",
    ),
  ),
  command_names.VERIFY: (
    Example("compare an output with its scores and its input", "winnow verify best"),
    Example(
      "do the same after the scores and the input have moved",
      "winnow verify best --scores=/data/scores --input='/data/c4/*.json.gz'",
    ),
  ),
  command_names.EVALUATE: (
    Example(
      "compute the perplexity of each checkpoint of a T5X run",
      "winnow evaluate --models='run/checkpoint_*' --vocabulary=sentencepiece.model --input='wiki40b/*.parquet' "
      "--scores=perplexities",
    ),
    Example(
      "evaluate a model from the hub on the validation split of C4, as TFDS has it",
      "winnow evaluate --models=google/t5-v1_1-small --input='tfds:c4/en:3.1.0#validation' --scores=perplexities",
    ),
  ),
  command_names.LAUNCH: (
    Example(
      "score on 16 nodes of 4 GPUs of a Slurm cluster, and then sample",
      "winnow launch slurm --parts=64 --gpus_per_task=4 --submit -- score --input='c4/*.json.gz' "
      "--model=/models/flan-t5-xl --scores=scores -- sample --scores=scores --sampler=ask_llm --rate=0.2 --output=best",
    ),
    Example(
      "print the Kubernetes Job that finds near-copies in eight pods",
      "winnow launch k8s --parts=8 --image=REGISTRY/winnow:1 -- score --scorer=minhash --input='gs://BUCKET/*.json.gz' "
      "--scores=gs://BUCKET/scores",
    ),
  ),
}
"""Two or more examples of each command."""
