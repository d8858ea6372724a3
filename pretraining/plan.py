"""`python -m pretraining.plan OUTPUT`: prints a sample's epochs and tokens, and the command line for T5X."""

import argparse
import json
import math
import pathlib
import shlex
import sys
from collections.abc import Sequence

from pipelines.corpus import inputs
from pipelines.registry import flag
from pipelines.runners import commands
from pretraining import samples

GIN_FOLDER = pathlib.Path(__file__).parent.resolve() / "gin"
MODELS = {"t5_small": "T5-Small", "t5_large": "T5-Large"}
# From the paper's section 4.1; also in pretrain.gin.
STEPS, BATCH_SIZE, SEQUENCE_LENGTH = 1_000_000, 1_024, 512
# T5's span corruption makes one sequence of 512 tokens, with 114 targets, from this many tokens.
TEXT_TOKENS = 568


def epochs(tokens: float) -> float:
  """Returns how often a run of the paper's length reads a sample of this many tokens."""
  return STEPS * BATCH_SIZE * TEXT_TOKENS / tokens


def command_line(sample: samples.Sample, model: str, model_dir: str) -> list[str]:
  """Returns the arguments that train `model`, a key of MODELS, on a sample with T5X."""
  settings = {"SAMPLE": sample.output, "MODEL_DIR": model_dir}
  # Gin takes Python's string literals; JSON's double quotes are easier to read in a shell.
  bindings = [f"--gin.{name}={json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]
  return ["python", "-m", "t5x.train", f"--gin_file={GIN_FOLDER / model}.gin", *bindings]


def host_counts(num_shards: int) -> list[int]:
  """Returns the numbers of data-parallel hosts that divide both the batch and the shards."""
  common = math.gcd(num_shards, BATCH_SIZE)
  return [hosts for hosts in range(1, common + 1) if common % hosts == 0]


def describe(sample: samples.Sample, model: str, model_dir: str) -> list[str]:
  """Describes the run in lines: sample, tokens, epochs, hosts and the command."""
  tokens = "not counted" if sample.tokens is None else f"{sample.tokens:,}"
  sequences = STEPS * BATCH_SIZE
  lines = [
    f"sample     {sample.name}: {sample.documents:,} documents in {sample.num_shards:,} shards",
    f"tokens     {tokens}",
    f"run        {MODELS[model]}, {STEPS:,} steps of {BATCH_SIZE:,} sequences of {SEQUENCE_LENGTH}: "
    f"{sequences * SEQUENCE_LENGTH / 1e9:.1f} billion positions, made of {sequences * TEXT_TOKENS / 1e9:.1f} billion "
    "tokens of text",
  ]
  if sample.tokens is None:
    lines.append(
      "epochs     not known: these scores come without tokens; draw the sample with --scores= of a store whose model "
      "counted them, or read targets_tokens in stats.train.json of seqio's cache"
    )
  else:
    lines.append(f"epochs     {epochs(sample.tokens):,.2f}")
  hosts = ", ".join(f"{count:,}" for count in host_counts(sample.num_shards))
  lines.append(
    f"hosts      {hosts}: these divide both shards and batch; with more than {sample.num_shards:,} hosts each would "
    "read all shards"
  )
  return [*lines, "", shlex.join(command_line(sample, model, model_dir))]


def plan(argv: Sequence[str]) -> None:
  """Prints the description of a run."""
  parser = argparse.ArgumentParser(prog="python -m pretraining.plan", description=__doc__)
  parser.add_argument("output", type=flag.path, metavar="OUTPUT", help="an output of winnow sample, local or gs://")
  parser.add_argument("--model", choices=MODELS, default="t5_small", help="what to train (default: t5_small)")
  parser.add_argument("--model_dir", type=flag.path, help="where T5X writes (default: OUTPUT_MODEL, beside the output)")
  namespace = parser.parse_args(argv)
  sample = samples.read(namespace.output)
  model_dir = namespace.model_dir or f"{sample.output.rstrip('/')}_{namespace.model}"
  print("\n".join(describe(sample, namespace.model, inputs.absolute(model_dir))))


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(plan, argv)


if __name__ == "__main__":
  sys.exit(main())
