"""`--estimate` beside the real counts, on a corpus in all formats; and that it leaves no trace."""

import json
import pathlib
import re

import corpora
import numpy as np
import pytest
import tiny_t5
from apache_beam.options import pipeline_options

from curation import checkpoints, t5
from curation.errors import WinnowError
from pipelines import accelerators, estimate, inputs, launch, main, options
from pipelines.blocks import Fields


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("estimate")
  corpora.write_corpus(folder / "corpus", big_rows=120_000, small_rows=1_500)
  corpora.write_model(folder / "model")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  return folder


def score(place: pathlib.Path, *flags: str) -> list[str]:
  model = [f"--model={place}/model", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32"]
  return ["score", f"--input={place}/corpus/*", "--scores=scores", *model, *flags]


def figure(told: str, row: str) -> tuple[float, float]:
  found = re.search(rf"^{row}\s+([\d,.e+]+) ± ([\d,.e+]+)", told, re.MULTILINE)
  assert found, told
  value, error = (float(number.replace(",", "")) for number in found.groups())
  return value, error


def test_an_estimate_is_near_the_truth_and_writes_nothing(place, monkeypatch, tmp_path, capsys):
  """Kills the mutants: the big gzip counted by its compressed size; a store that is claimed all the same."""
  monkeypatch.chdir(tmp_path)
  assert main.main(score(place, "--estimate")) == 0
  told = capsys.readouterr().out
  assert list(tmp_path.iterdir()) == []
  assert "measured here on" in told and "wall time of 256 workers" in told and "USD" in told
  assert main.main(score(place, "--name=real", "--direct_num_workers=1")) == 0
  summary = json.loads((tmp_path / "scores/real/summary.json").read_text())
  counters = json.loads(next((tmp_path / "scores/real/log").iterdir()).read_text())["counters"]
  for row, truth in (
    ("documents", summary["read"]),
    ("tokens of whole texts", summary["num_tokens"]),
    ("tokens of the model's inputs", counters["tokens_useful"]),
  ):
    value, error = figure(told, row)
    # Later rows have longer numbers in them than the heads that are sampled: 3% at most.
    assert abs(value - truth) < 4 * error + 0.03 * truth, row
    assert error < 0.1 * truth


def test_documents_of_whole_files_are_counted_and_not_guessed(place):
  """Each format and compression. Kills the mutants: a last line without its end; one member of a gzip for all of it."""
  shards = [shard for shard in inputs.find_shards(f"{place}/corpus/*") if shard.name != "big.jsonl.gz"]
  found = estimate.sample(shards, Fields())
  counts = {shard.name: (documents, error) for shard, documents, error in found.shards}
  rows = {name: 1_500 + ("tfrecord" in name) for name in corpora.SMALL}
  assert counts == {name: (count, 0.0) for name, count in rows.items()}
  (big,) = [shard for shard in inputs.find_shards(f"{place}/corpus/*") if shard.name == "big.jsonl.gz"]
  ((_, documents, error),) = estimate.sample([big], Fields()).shards
  assert abs(documents - 120_000) < 4 * error + 0.03 * 120_000 and 0 < error < 12_000


def test_a_named_accelerator_is_reckoned_with_what_the_table_says(place, capsys):
  """Kills the mutant that takes the whole of the maker's figure."""
  assert main.main(score(place, "--estimate", "--accelerator=nvidia-l4", "--max_num_workers=7")) == 0
  told = capsys.readouterr().out
  assert "48.4 TFLOP/s: 40% of 121" in told and "wall time of 7 workers" in told and "g2-standard-4" in told
  assert main.main(score(place, "--estimate", "--accelerator=nvidia-h100-80gb")) == 0
  assert "price" in (told := capsys.readouterr().out) and "unknown: accelerators.toml has none" in told


def test_what_the_command_refuses_the_estimate_refuses(place, capsys):
  assert main.main([*score(place, "--estimate")[:1], "--estimate", "--input=nowhere/*", "--scores=s"]) == 2
  assert main.main(score(place, "--estimate", "--accelerator=abacus")) == 2
  told = capsys.readouterr().err
  assert "--input=nowhere/* matches no file" in told and "nvidia-l4" in told


def test_operations_are_those_of_the_model(tmp_path):
  """Counted by XLA, with norms and softmax, for one layer and one head, as it counts the body of a loop once.

  Kills the mutants: a product counted as one operation; attention that grows with the length and not its square.
  """
  import jax

  folder = tiny_t5.make_checkpoint(tmp_path, num_layers=1, d_model=128, d_kv=128, d_ff=256, num_heads=1)
  checkpoint = checkpoints.load_checkpoint(folder, "float32")
  config, length, rows = checkpoint.config, 64, 4
  mask = np.ones((rows, length), bool)

  def step(params, ids_BL):
    states = t5.encode(params, ids_BL, mask, config)
    return t5.first_step_logits(params, states, mask, config)

  compiled = jax.jit(step).lower(checkpoint.params, np.ones((rows, length), np.int32)).compile()
  counted = compiled.cost_analysis()["flops"]
  ours = t5.useful_flops(config, np.full(rows, length)).sum()
  assert 0.85 * counted < ours < 1.05 * counted


def test_only_the_stage_with_the_model_asks_for_an_accelerator():
  hints = accelerators.resource_hints("nvidia-l4", 3 << 30)
  assert hints == {"accelerator": "type:nvidia-l4;count:1;install-nvidia-driver:5xx", "min_ram": "10GiB"}
  assert accelerators.resource_hints(None, 1 << 30) == accelerators.resource_hints("tpu-v5-lite-podslice", 1) == {}


# An endpoint that Beam asks nothing.
DATAFLOW = ["--runner=DataflowRunner", "--dataflow_endpoint=http://localhost:1", "--sdk_container_image=winnow"]


@pytest.mark.parametrize(
  ("accelerator", "flags", "service", "machine"),
  [
    ("nvidia-l4", [], "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx", "g2-standard-4"),
    ("nvidia-l4", ["--dataflow_service_options=enable_prime"], "enable_prime", None),
    ("nvidia-l4", ["--worker_machine_type=g2-standard-8"], "worker_accelerator=type:nvidia-l4", "g2-standard-8"),
    ("nvidia-l4", ["--dataflow_service_options=worker_accelerator=x"], "worker_accelerator=x", "g2-standard-4"),
    (
      "tpu-v5-lite-podslice",
      ["--worker_machine_type=ct5lp-hightpu-1t"],
      "worker_accelerator=type:tpu-v5-lite-podslice;topology:1x1",
      "ct5lp-hightpu-1t",
    ),
    (None, [], None, None),
  ],
)
def test_a_pool_has_the_accelerator_unless_stages_are_fitted(accelerator, flags, service, machine):
  """Kills the mutants: two accelerators for one pool; a machine type that the user gave is replaced."""
  launcher = launch.Launcher([*DATAFLOW, *flags], accelerator)
  google = launcher.options.view_as(pipeline_options.GoogleCloudOptions)
  given = google.dataflow_service_options or []
  assert (given == []) if service is None else (len(given) == 1 and given[0].startswith(service))
  assert launcher.options.view_as(pipeline_options.WorkerOptions).machine_type == machine


def test_a_tpu_wants_its_machine():
  with pytest.raises(WinnowError, match="--accelerator=tpu-v5-lite-podslice wants --worker_machine_type=ct5lp"):
    launch.Launcher(DATAFLOW, "tpu-v5-lite-podslice")


def test_the_table_is_whole():
  """Every row can be read, every price is dated and has its source, and flags know every name."""
  assert {"currency", "region", "date", "source"} <= accelerators.table()["prices"].keys()
  (flag,) = [flag for flag in options.FLAGS if flag.name == "accelerator"]
  for name in accelerators.names():
    found = accelerators.find(name)
    assert name in (flag.choices or ()) and found.hint.startswith(f"type:{name};") and 0 < found.utilisation < 1
    price = accelerators.hour_price(found.machine, found)
    assert (price is None) == (found.hour is None)
  machine = accelerators.Machine("m", 2, 10, 100)
  assert accelerators.hour_price(machine, None) == pytest.approx(2 * 0.056 + 10 * 0.003557 + 100 * 0.000054)
