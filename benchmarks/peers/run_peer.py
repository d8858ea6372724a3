"""Times one peer's scoring, in the peers' environment and in its own process, without importing Winnow.

The folder that compare.py wrote holds task.json and the checkpoint in Hugging Face's layout. Shape suffixes: N
documents, B rows of a batch, L its length, V pieces.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP_DOCUMENTS = 16
EOS_ID = 1

Task = dict[str, Any]
Score = Callable[[list[str]], np.ndarray]
"""A function that returns log P(yes) of every text: float64 [N]."""


def tokenise(texts: list[str], folder: Path, task: Task, kind: type) -> list[list]:
  """Tokenises the prompts with SentencePiece, truncating documents to fit; returns ids, or pieces if `kind` is str."""
  import sentencepiece

  processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "checkpoint/spiece.model"))

  def encode(parts: list[str]) -> list[list]:
    return processor.encode(parts, out_type=kind, num_threads=task["threads"])

  prefix, suffix = encode([task["prefix"], task["suffix"]])
  limit = task["max_input_tokens"] - 1
  inputs = encode([task["prefix"] + text + task["suffix"] for text in texts])
  long = [i for i, tokens in enumerate(inputs) if len(tokens) > limit]
  for i, document in zip(long, encode([texts[i] for i in long]), strict=True):
    inputs[i] = prefix + document[: limit - len(prefix) - len(suffix)] + suffix
  eos = processor.id_to_piece(EOS_ID) if kind is str else EOS_ID
  return [[*tokens, eos] for tokens in inputs]


def sorted_batches(inputs: list[list], batch_tokens: int) -> Iterator[list[int]]:
  """Yields positions of the inputs, longest first, in batches of at most `batch_tokens` tokens with padding."""
  order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]), reverse=True)
  while order:
    rows = max(1, batch_tokens // len(inputs[order[0]]))
    yield order[:rows]
    order = order[rows:]


def load_t5(folder: Path, task: Task):
  import torch
  import transformers

  torch.set_num_threads(task["threads"])
  return transformers.T5ForConditionalGeneration.from_pretrained(folder / "checkpoint", dtype=torch.float32).eval()


def transformers_sorted(folder: Path, task: Task) -> Score:
  """Runs the encoder and one decoder step for each batch, with batches sorted by length."""
  import torch

  model = load_t5(folder, task)

  @torch.inference_mode()
  def score(texts: list[str]) -> np.ndarray:
    inputs = tokenise(texts, folder, task, int)
    scores_N = np.empty(len(texts))
    for batch in sorted_batches(inputs, task["batch_tokens"]):
      rows = [torch.tensor(inputs[i]) for i in batch]
      ids_BL = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
      start_B1 = torch.zeros(len(batch), 1, dtype=torch.long)
      logits_BV = model(
        input_ids=ids_BL, attention_mask=ids_BL != 0, decoder_input_ids=start_B1, use_cache=False
      ).logits[:, 0]
      scores_N[batch] = torch.log_softmax(logits_BV, -1)[:, task["yes_id"]].numpy()
    return scores_N

  return score


def nano_askllm(folder: Path, task: Task) -> Score:
  """Runs nano-askllm as in its README, in batches of 8 in the documents' order; asks for "yes" as the paper does."""
  import nano_askllm
  import transformers

  logging.getLogger("nano_askllm").setLevel(logging.ERROR)  # a warning for every document cut
  tokenizer = transformers.T5Tokenizer.from_pretrained(folder / "checkpoint")
  llm = nano_askllm.AskLLM(
    tokenizer,
    load_t5(folder, task),
    prompt_template_prefix=task["prefix"],
    prompt_template_postfix=task["suffix"],
    yes_tokens=[task["yes"]],
    max_tokens=task["max_input_tokens"],
  )

  def score(texts: list[str]) -> np.ndarray:
    probabilities = [llm.ask(texts[i : i + 8]).double().numpy() for i in range(0, len(texts), 8)]
    return np.log(np.concatenate(probabilities))

  return score


def ctranslate2_as(compute_type: str) -> Callable[[Path, Task], Score]:
  """Runs CTranslate2's `score_batch`, which sorts and batches; a translator per core beats one on all cores."""

  def load(folder: Path, task: Task) -> Score:
    import ctranslate2

    translator = ctranslate2.Translator(
      str(folder / "ctranslate2"), compute_type=compute_type, inter_threads=task["threads"], intra_threads=1
    )

    def score(texts: list[str]) -> np.ndarray:
      inputs, answer = tokenise(texts, folder, task, str), [task["yes_piece"]]
      results = translator.score_batch(
        inputs, [answer] * len(texts), max_batch_size=task["batch_tokens"], batch_type="tokens"
      )
      return np.array([result.log_probs[0] for result in results])

    return score

  return load


def convert(folder: Path, _: Task) -> Score:
  """Writes the checkpoint for CTranslate2 in float32; scores nothing."""
  import ctranslate2

  ctranslate2.converters.TransformersConverter(str(folder / "checkpoint")).convert(str(folder / "ctranslate2"))
  return lambda texts: np.zeros(len(texts))


ENGINES: dict[str, Callable[[Path, Task], Score]] = {
  "nano_askllm": nano_askllm,
  "transformers": transformers_sorted,
  "ctranslate2_float32": ctranslate2_as("float32"),
  "ctranslate2_int8": ctranslate2_as("int8"),
  "convert": convert,
}


def main(engines: dict[str, Callable[[Path, Task], Score]]) -> None:
  """Times scoring of the task's texts, tokenising included, after a warm-up; arguments: ENGINE FOLDER RESULT."""
  engine, folder, result = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
  task = json.loads((folder / "task.json").read_text())
  score = engines[engine](folder, task)
  score(task["texts"][:WARM_UP_DOCUMENTS])
  started = time.perf_counter()
  scores_N = score(task["texts"])
  seconds = time.perf_counter() - started
  result.write_text(json.dumps({"seconds": seconds, "scores": scores_N.tolist()}))


if __name__ == "__main__":
  main(ENGINES)
