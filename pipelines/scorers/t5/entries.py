"""Ask-LLM (paper 3.1) and perplexity under a T5 (paper B.5) in the registry."""

import argparse
from typing import TYPE_CHECKING

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.registry.command_names import EVALUATE
from pipelines.registry.flag import BUCKET, Flag, path
from pipelines.scorers.entry import SCORING, Entry, Stored

if TYPE_CHECKING:
  from pipelines.scorers.t5.ask_llm import AskLlm
  from pipelines.scorers.t5.perplexity import Perplexity


def describe_ask_llm(namespace: argparse.Namespace, stored: Stored) -> "AskLlm":
  from pipelines.scorers.t5.ask_llm import AskLlm
  from pipelines.scorers.t5.base import common_flags

  del stored
  template = _read_prompt(namespace.prompt_file)
  return AskLlm(template=template, yes_token=namespace.yes_token, **common_flags(namespace))


def _read_prompt(path: str | None) -> str | None:
  """Returns the text of --prompt_file, as it is."""
  if path is None:
    return None
  try:
    return storage.read_bytes(path).decode()
  except (OSError, UnicodeDecodeError) as error:
    raise WinnowError(f"--prompt_file={path} cannot be read: {error}") from error


ASK_LLM = Entry(
  name="ask_llm",
  has_model=True,
  describe=describe_ask_llm,
  unit="log P of the answer",
  is_log_probability=True,
  flags=(
    Flag(
      "prompt_file",
      "Scorer",
      SCORING,
      "a text file, local or gs://, that contains {document} once and replaces the paper's prompt",
      type=path,
      pattern=BUCKET,
    ),
    Flag(
      "yes_token",
      "Scorer",
      SCORING,
      "the answer whose probability is the score; it must be a single piece of the vocabulary",
      default="yes",
    ),
  ),
)


def describe_perplexity(namespace: argparse.Namespace, stored: Stored) -> "Perplexity":
  from pipelines.scorers.t5.base import common_flags
  from pipelines.scorers.t5.perplexity import Perplexity

  del stored
  return Perplexity(objective=namespace.objective, mask_seed=namespace.mask_seed, **common_flags(namespace))


_COMMANDS = (*SCORING, EVALUATE)
PERPLEXITY = Entry(
  name="perplexity",
  has_model=True,
  describe=describe_perplexity,
  unit="log-likelihood per token",
  methods=("top_k", "bottom_k", "ips", "threshold"),
  flags=(
    Flag(
      "objective",
      "Scorer",
      _COMMANDS,
      "what the T5 was pre-trained to predict: masked spans of 15% of the text, or the continuation of a prefix",
      default="span_corruption",
      choices=("span_corruption", "prefix_lm"),
    ),
    Flag(
      "mask_seed",
      "Scorer",
      _COMMANDS,
      "seed for each document's masked spans, or for the length of its prefix",
      type=int,
      default=0,
    ),
  ),
)
