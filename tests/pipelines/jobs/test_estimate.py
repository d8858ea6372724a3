"""`--estimate` beside the real counts, on a corpus in all formats; and that it leaves no trace."""

import gzip
import json
import pathlib
import re
import tracemalloc

import corpora
import numpy as np
import pytest
import tiny_t5
import zstandard
from apache_beam.options import pipeline_options

from curation.errors import WinnowError
from curation.models import checkpoints, t5
from pipelines import main
from pipelines.corpus import blocks, counting, inputs
from pipelines.corpus.blocks import Fields
from pipelines.flags import declarations
from pipelines.jobs import estimate
from pipelines.runners import accelerators, devices, launch
from pipelines.scorers.minhash import entry

BIG_ROWS, SMALL_ROWS = 60_000, 300


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("estimate")
  corpora.write_corpus(folder / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
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
  counters = json.loads(next((tmp_path / "scores/real/log").iterdir()).read_text())["this_run"]
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
  """Each format and compression. Kills the mutants: a last line without its end; one member of a gzip for all of it; a
  blank line that is a document.
  """
  shards = [shard for shard in inputs.find_shards(f"{place}/corpus/*") if shard.name != "big.jsonl.gz"]
  found = counting.sample(shards, Fields())
  counts = {shard.name: (documents, error) for shard, documents, error in found.shards}
  rows = {name: SMALL_ROWS + ("tfrecord" in name) - (".json" in name) for name in corpora.SMALL}
  assert counts == {name: (count, 0.0) for name, count in rows.items()}
  (big,) = [shard for shard in inputs.find_shards(f"{place}/corpus/*") if shard.name == "big.jsonl.gz"]
  ((_, documents, error),) = counting.sample([big], Fields()).shards
  assert abs(documents - BIG_ROWS) < 4 * error + 0.03 * BIG_ROWS and 0 < error < 0.1 * BIG_ROWS


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_the_head_of_a_file_that_unpacks_to_a_gigabyte_is_counted_in_bounded_memory(tmp_path, compression):
  """Kills the mutant that unpacks all of a head: 300 MB, of some 300 kB or less."""
  line = json.dumps({"text": "the river and the stone " * 40}) + "\n"
  lines = 300_000
  data = (line * lines).encode()
  packed = gzip.compress(data, 1) if compression == "gzip" else zstandard.compress(data)
  shard = blocks.Shard("a", "a", "jsonl", compression, len(packed))
  tracemalloc.start()
  plain, size = counting._head(packed[: 1 << 20], shard)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(plain) < 200 << 20 and peak < 400 << 20
  assert plain == data[: len(plain)]
  assert plain.count(b"\n") * len(packed) / size == pytest.approx(lines, rel=0.25)


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


def test_pairs_within_clusters_are_reckoned_with(tmp_path, monkeypatch, capsys):
  """Kills the mutants: SemDeDup as cheap as prototypes; every pair twice."""
  monkeypatch.setattr(estimate, "_product_flops", lambda: 1e6)
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 4_000)
  given = [f"--input={tmp_path}/a.jsonl", "--embeddings=a.npy", "--scores=s", "--num_clusters=2", "--estimate"]
  hours = []
  for scorer in ("prototypes", "semdedup"):
    assert main.main(["score", f"--scorer={scorer}", *given]) == 0
    (told,) = re.findall(r"for the clusters.* ([\d.,]+), in 1 passes", capsys.readouterr().out)
    hours.append(float(told.replace(",", "")))
  pairs = 4_000**2 / 2 / 2
  assert hours[1] - hours[0] == pytest.approx(2 * 768 * pairs / 1e6 / 3600, abs=0.02)


def test_minhash_is_reckoned_without_a_model(tmp_path, monkeypatch, capsys):
  """Kills the mutants: a model that is asked for; the speed of one document taken for that of a second's."""
  monkeypatch.setattr(entry, "_speed", lambda texts, hashes: 1_000.0 if hashes == 64 else 0.0)
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 720_000)
  given = [f"--input={tmp_path}/a.jsonl", "--scores=s", "--scorer=minhash", "--minhash_bands=8", "--estimate"]
  assert main.main(["score", *given]) == 0
  told = capsys.readouterr().out
  assert re.search(r"hours of one core of this machine for signatures +0.20, reading not counted", told)


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


# An endpoint that Beam asks nothing.
DATAFLOW = ["--runner=DataflowRunner", "--dataflow_endpoint=http://localhost:1", "--sdk_container_image=winnow"]


L4 = "type:nvidia-l4;count:1;install-nvidia-driver:5xx"
TPU = "tpu-v5-lite-podslice"


@pytest.mark.parametrize(
  ("accelerator", "gigabytes", "flags", "hints", "service", "machine"),
  [
    # The stage alone, on a machine that has the memory; all others on a plain one.
    ("nvidia-l4", 3, [], {"accelerator": f"{L4};machine_type:g2-standard-4"}, [], "n2-standard-8"),
    ("nvidia-l4", 11, [], {"accelerator": f"{L4};machine_type:g2-standard-8"}, [], "n2-standard-8"),
    (
      "nvidia-l4",
      3,
      ["--worker_machine_type=g2-standard-12"],
      {"accelerator": f"{L4};machine_type:g2-standard-12"},
      [],
      "n2-standard-8",
    ),
    (
      "nvidia-l4",
      3,
      ["--worker_machine_type=e2-standard-8"],
      {"accelerator": f"{L4};machine_type:g2-standard-4"},
      [],
      "e2-standard-8",
    ),
    # Prime picks machines itself.
    (
      "nvidia-l4",
      3,
      ["--dataflow_service_options=enable_prime"],
      {"accelerator": L4, "min_ram": "10GiB"},
      ["enable_prime"],
      None,
    ),
    ("nvidia-l4", 3, ["--experiments=enable_prime"], {"accelerator": L4, "min_ram": "10GiB"}, [], None),
    # The whole pool, since the user says so, or since a pool of TPUs is of one type.
    (
      "nvidia-l4",
      3,
      ["--dataflow_service_options=worker_accelerator=x"],
      {},
      ["worker_accelerator=x"],
      "g2-standard-4",
    ),
    (TPU, 3, [], {}, [f"worker_accelerator=type:{TPU};topology:1x1"], "ct5lp-hightpu-1t"),
    (None, 3, [], {}, [], "n2-standard-8"),
    (None, 20, [], {}, [], "n2-standard-16"),
    (None, 20, ["--worker_machine_type=c3-standard-8"], {}, [], "c3-standard-8"),
  ],
)
def test_a_gpu_is_asked_for_once(accelerator, gigabytes, flags, hints, service, machine):
  """Kills the mutants: right fitting and an accelerator for the pool, which the service refuses; a machine that the
  user gave is replaced; a model on a machine without the memory."""
  launcher = launch.Launcher([*DATAFLOW, *flags], accelerator)
  assert launcher.fit_workers(gigabytes << 30) == hints
  google = launcher.options.view_as(pipeline_options.GoogleCloudOptions)
  assert (google.dataflow_service_options or []) == service
  worker = launcher.options.view_as(pipeline_options.WorkerOptions)
  assert worker.machine_type == machine
  assert worker.disk_size_gb >= (50 if accelerator is None else 100)


@pytest.mark.parametrize(
  ("accelerator", "gigabytes", "flags", "told"),
  [
    (TPU, 1, ["--worker_machine_type=n2-standard-8"], "is carried by ct5lp-hightpu-1t, not by --worker_machine_type=n"),
    (TPU, 1, ["--dataflow_service_options=enable_prime"], "Dataflow has no enable_prime with --accelerator=tpu"),
    ("nvidia-l4", 1, ["--flexrs_goal=COST_OPTIMIZED"], "Dataflow has no flexrs_goal with --accelerator=nvidia"),
    ("nvidia-l4", 1, ["--worker_machine_type=a2-highgpu-1g"], "is carried by g2-standard-4 or g2-standard-8"),
    (
      "nvidia-l4",
      1,
      ["--worker_machine_type=n2-standard-8", "--dataflow_service_options=worker_accelerator=x"],
      "is carried by g2-standard-4",
    ),
    (TPU, 40, [], "needs 84 GB of memory in a worker, and no machine with tpu-v5-lite-podslice"),
    (None, 90, [], "needs 184 GB of memory in a worker, and no machine without an accelerator"),
  ],
)
def test_what_the_service_would_refuse_is_refused_here(accelerator, gigabytes, flags, told):
  with pytest.raises(WinnowError, match=told):
    launch.Launcher([*DATAFLOW, *flags], accelerator).fit_workers(gigabytes << 30)


def test_an_image_of_another_kind_is_refused(monkeypatch):
  """Kills the mutant that has every worker find it out."""
  monkeypatch.setenv("WINNOW_IMAGE", "winnow")
  monkeypatch.setenv("WINNOW_ACCELERATOR", "gpu")
  launch.Launcher(DATAFLOW, "nvidia-l4")
  launch.Launcher([*DATAFLOW[:2], "--sdk_container_image=another"], TPU)
  with pytest.raises(WinnowError, match="needs an image for tpu, but winnow is for gpu"):
    launch.Launcher(DATAFLOW, TPU)


def test_a_price_is_not_that_of_a_cpu_where_devices_were_measured(place, monkeypatch, tmp_path, capsys):
  """Kills the mutant that sells a GPU's hours at a CPU's price."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(devices, "visible_accelerators", lambda root="/": 2)
  assert main.main(score(place, "--estimate", "--direct_num_workers=1")) == 0
  assert re.search("price +unknown: measured on this machine's 2 devices", capsys.readouterr().out)


def test_the_table_is_whole():
  """Every row can be read, every price is dated and has its source, and flags know every name."""
  assert {"currency", "region", "date", "source"} <= accelerators.table()["prices"].keys()
  (flag,) = [flag for flag in declarations.FLAGS if flag.name == "accelerator"]
  for name in accelerators.names():
    found = accelerators.find(name)
    assert name in (flag.choices or ()) and found.kind in ("gpu", "tpu") and 0 < found.utilisation < 1
    assert found.resource().startswith(f"type:{name};") and found.is_tpu == ("topology" in found.options)
    assert [m.memory_gb for m in found.machines] == sorted(m.memory_gb for m in found.machines)
    assert len({machine.family for machine in found.machines}) == 1
    price = accelerators.hour_price(found.machines[0], found)
    assert (price is None) == (found.hour is None)
  machine = accelerators.Machine("m", 2, 10, 100)
  assert accelerators.hour_price(machine, None) == pytest.approx(2 * 0.056 + 10 * 0.003557 + 100 * 0.000054)
