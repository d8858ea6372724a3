"""Ask-LLM: the prompt to the token, golden probabilities, and scores that depend on nothing but the document."""

import concurrent.futures
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import tiny_t5

from curation.errors import WinnowError
from curation.models import batching, checkpoints, engine, t5
from curation.scorers import ask_llm

# Few tokens, so that the table has three buckets: compiling a shape takes a second.
PROMPT = ask_llm.Prompt("the {document} yes no")
LIMITS: dict[str, Any] = {"max_input_tokens": 24, "batch_tokens": 64}

SEVERAL_DEVICES = """
import sys, jax, numpy as np, pyarrow as pa, tiny_t5
from curation.models import checkpoints
from curation.scorers import ask_llm
together = int(sys.argv[2])
devices = len(jax.local_devices())
if together > 1:  # attention as accelerators have it
  jax.lax.platform_dependent = lambda *args, cpu, default: default(*args)
checkpoint = checkpoints.load_checkpoint(sys.argv[1], "float32")
prompt = ask_llm.Prompt("the {document} yes no")
scorer = ask_llm.AskLlmScorer(
  checkpoint, prompt, max_input_tokens=24, batch_tokens=64, devices_per_model=together
)
scorer.warm_up()
texts = tiny_t5.make_texts(200, longest=30)
print(scorer.run(scorer.prepare(pa.array(texts))).scores.tobytes().hex())
held = [0] * devices
for leaf in jax.tree.leaves(scorer.engine.params):
  for shard in leaf.addressable_shards:
    held[shard.device.id] += shard.data.size
print(*held)
everywhere = jax.NamedSharding(scorer.engine._groups[0], jax.P())
inputs = jax.device_put((np.ones((4, 24), np.int32), np.full(4, 24)), everywhere)
program = ask_llm._log_probability.lower(scorer.engine.params[0], *inputs, 5, scorer.config).compile().as_text()
kinds = ("all-reduce(", "all-gather(", "all-to-all(", "collective-permute(", "reduce-scatter(")
print(*(program.count(" " + kind) for kind in kinds))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  return tiny_t5.make_checkpoint(tmp_path_factory.mktemp("ask"))


@pytest.fixture(scope="module")
def checkpoint(folder) -> checkpoints.Checkpoint:
  return checkpoints.load_checkpoint(folder, "float32")


@pytest.fixture(scope="module")
def scorer(checkpoint) -> ask_llm.AskLlmScorer:
  return ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS)


@pytest.fixture(scope="module")
def golden(shared) -> dict:
  return json.loads((shared / "golden" / "expected" / "ask_llm_expected.json").read_text())


@pytest.fixture(scope="module")
def golden_scorer(shared) -> ask_llm.AskLlmScorer:
  return ask_llm.AskLlmScorer(checkpoints.load_checkpoint(shared / "golden" / "t5_v1_1_tiny", "float32"))


def score(scorer: ask_llm.AskLlmScorer, texts: list[str]) -> ask_llm.Scores:
  return scorer.run(scorer.prepare(pa.array(texts, pa.string())))


def inputs_of(prepared: engine.PreparedTexts) -> list[list[int]]:
  """Returns every document's ids without padding."""
  inputs = {}
  for batch, ids_BL in zip(prepared.batches.plan, prepared.batches.ids, strict=True):
    for row, i in enumerate(batch.indices):
      inputs[int(i)] = ids_BL[row, : prepared.batches.lengths_N[i]].tolist()
      assert not ids_BL[row, prepared.batches.lengths_N[i] :].any()
    assert not ids_BL[len(batch.indices) :].any()
  return [inputs[i] for i in range(len(inputs))]


def test_prompt_is_the_papers(golden):
  assert (ask_llm.Prompt().prefix, ask_llm.Prompt().suffix) == (golden["prefix"], golden["suffix"])
  assert ask_llm.TEMPLATE.startswith("###\n{document}\n###\n\nDoes") and ask_llm.TEMPLATE.endswith("\n- yes\n- no\n")


def test_golden_inputs_and_probabilities(golden, golden_scorer):
  """Ids to the token (of prompts of exactly 512 and 513 tokens too), whole texts' token counts, and P(yes)."""
  examples = golden["examples"]
  prepared = golden_scorer.prepare(pa.array([example["text"] for example in examples]))
  assert inputs_of(prepared) == [example["input_ids"] for example in examples]
  scores = golden_scorer.run(prepared)
  assert scores.num_tokens.tolist() == [example["document_tokens"] for example in examples]
  np.testing.assert_allclose(scores.scores, [example["logp_yes"] for example in examples], rtol=0, atol=1e-4)
  np.testing.assert_allclose(np.exp(scores.scores), [example["p_yes"] for example in examples], rtol=0, atol=2e-5)
  assert scores.scores.dtype == np.float32 and scores.num_tokens.dtype == np.int32


@pytest.mark.parametrize("template", [PROMPT.template, "win{document}ow yes no"], ids=["spaced", "glued"])
def test_only_the_documents_end_is_cut(checkpoint, template):
  """Around the limit, against the rule spelt out; glued to its text, a prompt's tokens joined and apart differ.

  Kills: a cut of the prompt's end, room off by one, a prompt of exactly the limit taken for too long, a prompt that
  fits tokenised apart, and one that does not fit tokenised joined.
  """
  prompt = ask_llm.Prompt(template)
  scorer = ask_llm.AskLlmScorer(checkpoint, prompt, **LIMITS)
  words = ["d", *(["river"] * 40)] if template != PROMPT.template else ["river"] * 60
  texts = [" ".join([*words[:n], "d"]) for n in range(len(words))]
  limit = LIMITS["max_input_tokens"]
  seen = set()
  for text, ids in zip(texts, inputs_of(scorer.prepare(pa.array(texts))), strict=True):
    parts = (prompt.prefix + text + prompt.suffix, prompt.prefix, text, prompt.suffix)
    full, p, d, s = (checkpoint.vocabulary.encode([part]).ids.tolist() for part in parts)
    apart = [*p, *d[: limit - 1 - len(p) - len(s)], *s, 1]
    assert ids == ([*full, 1] if len(full) + 1 <= limit else apart)
    seen.add((len(full) + 1 > limit, len(full) + 1 == limit, apart == [*full, 1]))
  differ = template != PROMPT.template
  assert seen == {(True, False, False), (False, False, not differ), (False, True, not differ)}


def test_scores_do_not_depend_on_neighbours_order_or_block(scorer):
  """Invariant 1, bit for bit: a whole block, shuffled blocks, small blocks and single texts.

  Kills: a batch that is padded to its own longest row instead of its bucket's length, a last batch that is cut to its
  rows instead of filled up.
  """
  texts = tiny_t5.make_texts(40, longest=30)
  together = score(scorer, texts)
  assert len(np.unique(together.scores)) > 30
  generator = np.random.default_rng(0)
  for size in (1, 3, 17, 40):
    order_N = generator.permutation(len(texts))
    parts = [score(scorer, [texts[i] for i in order_N[j : j + size]]) for j in range(0, len(texts), size)]
    scores_N = np.concatenate([part.scores for part in parts])
    assert scores_N.tobytes() == together.scores[order_N].tobytes()
    assert (np.concatenate([part.num_tokens for part in parts]) == together.num_tokens[order_N]).all()


def test_scores_are_the_models(scorer, checkpoint):
  """log P(yes) of one unpadded prompt, computed apart from the scorer: the right piece, over the whole vocabulary."""
  text = tiny_t5.make_texts(1, seed=5, longest=10)[0]
  (ids,) = inputs_of(scorer.prepare(pa.array([text])))
  mask_BL = np.ones((1, len(ids)), bool)
  states_BLD = t5.encode(checkpoint.params, np.array([ids]), mask_BL, checkpoint.config)
  logits_V = np.asarray(t5.first_step_logits(checkpoint.params, states_BLD, mask_BL, checkpoint.config))[0]
  yes = checkpoint.vocabulary.encode(["yes"]).ids[0]
  expected = logits_V[yes] - np.log(np.exp(logits_V.astype(np.float64)).sum())
  np.testing.assert_allclose(score(scorer, [text]).scores, [expected], rtol=0, atol=1e-5)


def test_warm_up_compiles_every_shape_and_nothing_is_compiled_later(checkpoint):
  """At most 16 shapes, all known before the first document."""
  jax.clear_caches()
  scorer = ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS)
  scorer.warm_up()
  compiled = ask_llm._log_probability._cache_size()
  assert compiled == len(scorer.engine.table.lengths) <= 16
  score(scorer, tiny_t5.make_texts(40, longest=30))
  assert ask_llm._log_probability._cache_size() == compiled


def test_callers_in_several_threads_share_the_batches_that_warm_up_tried(checkpoint):
  """A runner's worker has many threads. Kills the mutant in which each has batches of its own under way."""
  lock, running, peak = threading.Lock(), 0, 0

  def program(params, ids_BL, lengths_B):
    nonlocal running, peak
    with lock:
      running += 1
      peak = max(peak, running)
    time.sleep(0.002)
    with lock:
      running -= 1
    return np.zeros(len(ids_BL), np.float32)

  table = batching.bucket_table(8, 8, 8)
  made = engine.Engine(checkpoint.params, checkpoint.config, program, buckets=lambda _: table)
  block = made.prepare([np.ones(4, np.int32)] * 40)
  with concurrent.futures.ThreadPoolExecutor(6) as pool:
    assert all(len(result) == 40 for result in pool.map(made.run, [block] * 12))
  assert 1 <= peak <= made._in_flight


def test_accounts_for_padding(scorer):
  texts = tiny_t5.make_texts(40, longest=30)
  prepared = scorer.prepare(pa.array(texts))
  scores = scorer.run(prepared)
  assert scores.useful_tokens == sum(map(len, inputs_of(prepared)))
  assert scores.computed_tokens == sum(ids_BL.size for ids_BL in prepared.batches.ids)
  assert scores.batches == len(prepared.batches.ids)


def test_empty_block_and_empty_text(scorer):
  nothing = score(scorer, [])
  assert nothing.scores.shape == nothing.num_tokens.shape == (0,) and nothing[2:] == (0, 0, 0)
  empty = score(scorer, ["", "river"])
  assert np.isfinite(empty.scores).all() and empty.num_tokens[0] == 0


def on_devices(folder: Path, devices: int, devices_per_model: int) -> tuple[np.ndarray, list[int], list[int]]:
  """Returns the scores of 200 texts, the weights on each device, and the program's collectives by kind."""
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    "PYTHONPATH": os.pathsep.join(sys.path),
  }
  command = [sys.executable, "-c", SEVERAL_DEVICES, str(folder), str(devices_per_model)]
  output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
  scores, held, collectives = output.splitlines()
  return np.frombuffer(bytes.fromhex(scores), np.float32), [*map(int, held.split())], [*map(int, collectives.split())]


def test_all_devices_give_the_same_bits(scorer, folder):
  """Kills: batches and results that are matched in another order, devices with other parameters."""
  scores_N, _, collectives = on_devices(folder, 3, 1)
  assert scores_N.tobytes() == score(scorer, tiny_t5.make_texts(200, longest=30)).scores.tobytes()
  assert sum(collectives) == 0


@pytest.mark.parametrize("together", [2, pytest.param(4, marks=pytest.mark.long)])
def test_devices_that_hold_one_model_together(tmp_path, together):
  """Kills: heads or gates divided across another axis, which XLA mends by moving activations; weights held twice."""
  folder = tiny_t5.make_checkpoint(tmp_path, num_heads=4)
  alone = ask_llm.AskLlmScorer(checkpoints.load_checkpoint(folder, "float32"), PROMPT, **LIMITS)
  scores_N, held, collectives = on_devices(folder, 4, together)
  np.testing.assert_allclose(scores_N, score(alone, tiny_t5.make_texts(200, longest=30)).scores, rtol=0, atol=1e-5)
  leaves = [(path[-1].key, leaf.size) for path, leaf in jax.tree.leaves_with_path(alone.engine.params[0])]
  whole = sum(size for name, size in leaves if "norm" in name or name in ("embedding_VD", "head_VD"))
  assert held == [whole + (sum(size for _, size in leaves) - whole) // together] * 4
  # One layer is compiled for each stack: a sum behind attention and one behind the feed-forward block, and in the
  # decoder a third, behind the cross-attention.
  assert collectives == [5, 0, 0, 0, 0]


def test_devices_that_cannot_hold_one_model_together_are_refused(checkpoint):
  for devices in (0, 2, 5):
    with pytest.raises(WinnowError, match=rf"--devices_per_model={devices} must divide the model's num_heads.* 3"):
      ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS, devices_per_model=devices)
  with pytest.raises(WinnowError, match=r"--devices_per_model=3 must divide the 1 devices of a worker"):
    ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS, devices_per_model=3)


def test_nan_stays_with_its_document(folder, checkpoint, tmp_path):
  """One piece's embedding is NaN: documents with it get NaN, and their neighbours in the batch their own scores."""
  (piece,) = checkpoint.vocabulary.encode(["violin"]).ids
  for name in ("config.json", "spiece.model"):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  tensors["shared.weight"] = np.array(tensors["shared.weight"])
  tensors["shared.weight"][piece] = np.nan
  safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
  broken = ask_llm.AskLlmScorer(checkpoints.load_checkpoint(tmp_path, "float32"), PROMPT, **LIMITS)
  texts = tiny_t5.make_texts(60, longest=16)
  has_it = np.array(["violin" in text for text in texts])
  assert 5 < has_it.sum() < 55
  scores_N = score(broken, texts).scores
  assert np.isnan(scores_N[has_it]).all()
  sound = ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS)
  assert scores_N[~has_it].tobytes() == score(sound, texts).scores[~has_it].tobytes()


def test_describe_is_json_and_names_what_decides_a_score(checkpoint, scorer):
  described = scorer.describe()
  assert json.loads(json.dumps(described)) == described
  others = {
    "prompt": ask_llm.AskLlmScorer(checkpoint, ask_llm.Prompt("a {document} yes no"), **LIMITS),
    "yes_token": ask_llm.AskLlmScorer(checkpoint, ask_llm.Prompt(PROMPT.template, "no"), **LIMITS),
    "max_input_tokens": ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS | {"max_input_tokens": 23}),
    "buckets": ask_llm.AskLlmScorer(checkpoint, PROMPT, **LIMITS | {"batch_tokens": 65}),
    "dtype": ask_llm.AskLlmScorer(checkpoint, PROMPT, dtype="bfloat16", **LIMITS),
  }
  for field in ("prompt", "yes_token", "max_input_tokens", "dtype"):
    differing = {name for name, value in others[field].describe().items() if value != described[name]}
    assert differing == {field}
  assert described["buckets"] == scorer.engine.table.to_json()
  assert described["device_kind"] == jax.local_devices()[0].device_kind
  assert set(described) == {"engine_version", "first_step", "jax", "device_kind", "devices_per_model", *others}


@pytest.mark.parametrize("template", ["no place", "{document} and {document}", "{ document }", ""])
def test_templates_without_one_place_are_refused(template):
  with pytest.raises(WinnowError, match=r"\{document\} exactly once"):
    ask_llm.Prompt(template)


def test_documents_and_templates_may_hold_braces(scorer, checkpoint):
  prompt = ask_llm.Prompt("{} {{ {document} {x}")
  assert (prompt.prefix, prompt.suffix) == ("{} {{ ", " {x}")
  assert np.isfinite(score(scorer, ["a {document} {}"]).scores).all()


def test_answers_and_limits_that_do_not_fit_are_refused(checkpoint):
  with pytest.raises(WinnowError, match="--yes_token"):
    ask_llm.Prompt(yes_token=" ")
  with pytest.raises(WinnowError, match="one known piece"):
    ask_llm.AskLlmScorer(checkpoint, ask_llm.Prompt(PROMPT.template, "yes no"), **LIMITS)
  instruction = len(checkpoint.vocabulary.encode([PROMPT.prefix, PROMPT.suffix]).ids) + 1
  with pytest.raises(WinnowError, match=f"at least {instruction + 1}, not {instruction}"):
    ask_llm.AskLlmScorer(checkpoint, PROMPT, max_input_tokens=instruction)
  smallest = ask_llm.AskLlmScorer(checkpoint, PROMPT, max_input_tokens=instruction + 1, batch_tokens=64)
  (ids,) = inputs_of(smallest.prepare(pa.array(["river stone bread"])))
  assert len(ids) == instruction + 1


def test_lack_of_memory_shows_at_warm_up_and_names_the_flag(checkpoint):
  """The host's (the batch's ids are petabytes) and the device's (XLA asks for more than this process may have)."""
  with pytest.raises(WinnowError, match="lower --batch_tokens"):
    ask_llm.AskLlmScorer(checkpoint, PROMPT, max_input_tokens=24, batch_tokens=2**50).warm_up()
  used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
  soft, hard = resource.getrlimit(resource.RLIMIT_AS)
  greedy = ask_llm.AskLlmScorer(checkpoint, PROMPT, max_input_tokens=24, batch_tokens=2**23)
  resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), hard))
  try:
    with pytest.raises(WinnowError, match="lower --batch_tokens"):
      greedy.warm_up()
  finally:
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_compilation_cache_keeps_programs(checkpoint, tmp_path):
  with tiny_t5.kept_programs(tmp_path):
    score(ask_llm.AskLlmScorer(checkpoint, PROMPT, max_input_tokens=8, batch_tokens=64), ["river"])
  assert any("log_probability" in path.name for path in tmp_path.iterdir())


def test_batches_are_told_of_as_they_are_done(scorer):
  """Kills: what is told in one piece when the block is done; dummies that count."""
  texts = tiny_t5.make_texts(40, longest=60)
  prepared, calls = scorer.prepare(pa.array(texts)), []
  scores = scorer.run(prepared, lambda places, tokens: calls.append((places.tolist(), tokens)))
  assert [places for places, _ in calls] == [batch.indices.tolist() for batch in prepared.batches.plan]
  assert len(calls) > 4 and sum(tokens for _, tokens in calls) == scores.useful_tokens
