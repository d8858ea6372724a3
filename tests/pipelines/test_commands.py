"""Commands that cannot do what they are asked: one sentence, the right status, nothing half-written."""

import gzip
import json
import pathlib

import corpora
import pytest
import safetensors.numpy

from pipelines import main


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
  return corpora.write_model(tmp_path_factory.mktemp("model") / "rater")


@pytest.fixture
def place(tmp_path, monkeypatch) -> pathlib.Path:
  """A folder with three small shards, which is the current one."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "in").mkdir()
  for shard in range(3):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(40, shard)]
    (tmp_path / f"in/{shard}.jsonl").write_text("\n".join(lines) + "\n")
  (tmp_path / "prompt.txt").write_text(corpora.PROMPT)
  return tmp_path


def score(model: str, *flags: str) -> list[str]:
  base = ["--input=in/*", f"--model={model}", "--scores=scores", "--prompt_file=prompt.txt", "--max_input_tokens=64"]
  given = {flag.split("=")[0] for flag in flags}
  return ["score", *(flag for flag in base if flag.split("=")[0] not in given), *flags]


def told(capsys) -> str:
  """What the user reads: one line on the standard error, no traceback."""
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if line.startswith("winnow: ")]
  assert len(lines) == 1, error
  assert "Traceback" not in error
  return lines[0]


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--input=nowhere/*"], "--input=nowhere/* matches no file"),
    (["--input=prompt.txt"], "cannot tell the format"),
    (["--modle=x"], "did you mean --model?"),
    (["--direct_num_worker=2"], "did you mean --direct_num_workers?"),
    (["--max_input_tokens=many"], "invalid int value"),
    (["--max_input_tokens=4"], "--max_input_tokens"),
    (["--model=no/such-model-anywhere"], "--model=no/such-model-anywhere"),
    (["--model=./nowhere"], "there is no such folder"),
    (["--model=prompt.txt"], "is a file"),
    (["--model=gs-is-not-a-scheme://x"], "--model="),
    (["--prompt_file=missing.txt"], "--prompt_file=missing.txt cannot be read"),
    (["--yes_token=definitely"], "one"),
    (["--name=a/b"], "letters, digits and underscores"),
    (["--block_rows=0"], "--block_rows=0"),
    (["--max_bad_fraction=2"], "--max_bad_fraction"),
    (["--batch_tokens=0"], "--batch_tokens"),
    (["--input=tfds:no_such_dataset:1.0.0", "--tfds_data_dir=nowhere"], "no_such_dataset"),
  ],
)
def test_arguments_that_cannot_be_met_are_refused_before_anything_is_written(
  place, model, capsys, flags, words, monkeypatch
):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  before = sorted(place.rglob("*"))
  assert main.main(score(model, *flags)) == 2
  assert words in told(capsys)
  assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("template", ["no place for it", "{document} and {document}"])
def test_a_prompt_has_one_place_for_the_document(place, model, capsys, template):
  (place / "other.txt").write_text(template)
  assert main.main(score(model, "--prompt_file=other.txt")) == 2
  assert "{document}" in told(capsys)


def test_two_shards_of_one_name_are_refused(place, model, capsys):
  (place / "in/more").mkdir()
  (place / "in/more/0.jsonl").write_text('{"text": "again"}\n')
  assert main.main(score(model, "--input=in/**")) == 2
  assert "have one name, 0.jsonl" in told(capsys)


def break_weights(folder: pathlib.Path, how: str) -> None:
  weights = folder / "model.safetensors"
  tensors = safetensors.numpy.load_file(weights)
  if how == "pickle":
    weights.rename(folder / "pytorch_model.bin")
  elif how == "missing":
    del tensors["encoder.final_layer_norm.weight"]
    safetensors.numpy.save_file(tensors, weights)
  elif how == "shape":
    tensors["encoder.final_layer_norm.weight"] = tensors["encoder.final_layer_norm.weight"][:-1]
    safetensors.numpy.save_file(tensors, weights)
  elif how == "truncated":
    weights.write_bytes(weights.read_bytes()[:-100])
  else:
    (folder / how).unlink()


@pytest.mark.parametrize("how", ["pickle", "missing", "shape", "truncated", "spiece.model", "config.json"])
def test_unreadable_checkpoints_are_refused_before_anything_is_written(place, capsys, how):
  folder = pathlib.Path(corpora.write_model(place / "broken"))
  break_weights(folder, how)
  assert main.main(score(str(folder))) == 2
  assert "broken" in told(capsys)
  assert not (place / "scores").exists()


def test_a_truncated_gzip_fails_by_name_and_keeps_what_was_scored(place, model, capsys):
  lines = [json.dumps({"text": text}) for text in corpora.sentences(3_000, 5)]
  whole = gzip.compress("\n".join(lines).encode())
  (place / "in/cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
  command = score(model, "--block_rows=100", "--direct_num_workers=1")
  assert main.main(command) == 1
  assert "cut.jsonl.gz" in told(capsys)
  assert not (place / "scores/ask_llm_rater/summary.json").exists()
  assert main.main(["sample", "--scores=scores", "--sampler=ask_llm", "--rate=0.5", "--output=out"]) == 2
  assert "is not complete" in told(capsys)
  assert not (place / "out").exists()
  (place / "in/cut.jsonl.gz").write_bytes(whole)
  assert main.main(command) == 2
  assert "inputs.cut.jsonl.gz.bytes" in told(capsys)


def test_the_failure_of_a_worker_process_is_one_sentence_too(place, model, capfd):
  lines = [json.dumps({"text": text}) for text in corpora.sentences(500, 5)]
  (place / "in/cut.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode())[:-20])
  assert main.main(score(model, "--direct_num_workers=2")) == 1
  assert "cut.jsonl.gz" in told(capfd)
  log = json.loads(next((place / "scores/ask_llm_rater/log").iterdir()).read_text())
  assert "Traceback" in log["error"]


def test_too_many_bad_documents_fail_and_name_the_first(place, model, capsys):
  with open(place / "in/1.jsonl", "a") as file:
    file.write('{"text": 5}\n{"no": "text"}\n')
  assert main.main(score(model, "--direct_num_workers=1")) == 1
  sentence = told(capsys)
  assert "2 of 122 documents are bad" in sentence
  assert "1.jsonl row 40 (text_not_a_string); 1.jsonl row 41 (missing_text)" in sentence
  assert main.main(score(model, "--direct_num_workers=1", "--max_bad_fraction=0.02")) == 0
  dead = (place / "scores/ask_llm_rater/dead_letter/1.jsonl.jsonl").read_text().splitlines()
  assert [json.loads(line)["row"] for line in dead] == [40, 41]


@pytest.fixture
def scored(place, model) -> pathlib.Path:
  assert main.main(score(model, "--name=one", "--direct_num_workers=1")) == 0
  return place


def sample(*flags: str) -> list[str]:
  return ["sample", "--scores=scores", "--output=out", *flags]


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--rate=0.5"], "--sampler="),
    (["--sampler=ask_llm"], "give one of --rate"),
    (["--sampler=ask_llm", "--rate=1.5"], "(0, 1]"),
    (["--sampler=ask_llm", "--rate=0.001"], "is none"),
    (["--sampler=ask_llm", "--num_examples=121"], "more than the 120 documents"),
    (["--sampler=ask_llm", "--rate=0.5", "--name=two"], "has no store called two; it has: one"),
    (["--sampler=ask_llm", "--rate=0.5", "--num_shards=0"], "--num_shards=0"),
    (["--sampler=ask_llm", "--rate=0.5", "--input=in/0*"], "the input is not what"),
    (["--sampler=density", "--rate=0.5"], "invalid choice"),
    (["--sampler=ask_llm", "--rate=0.5", "--text_field=body"], "--text_field was settled"),
  ],
)
def test_samples_that_cannot_be_drawn_are_refused(scored, capsys, flags, words):
  capsys.readouterr()
  assert main.main(sample(*flags)) == 2
  assert words in told(capsys)
  assert not (scored / "out").exists()


def test_a_request_that_selects_nothing_fails(scored, capsys):
  capsys.readouterr()
  assert main.main(sample("--sampler=ask_llm", "--threshold=1000")) == 1
  assert "selects no document" in told(capsys)
  assert not (scored / "out/manifest.json").exists()


def test_a_changed_input_is_refused_by_name(scored, capsys):
  capsys.readouterr()
  text = (scored / "in/1.jsonl").read_text()
  (scored / "in/1.jsonl").write_text(text.replace("river", "RIVER", 1))
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5")) == 2
  assert "inputs.1.jsonl.checksum" in told(capsys)


def test_a_corpus_may_move(scored):
  (scored / "in").rename(scored / "elsewhere")
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5", "--input=elsewhere/*")) == 0


def test_somebody_elses_dataset_is_never_touched(scored, capsys):
  (scored / "out").mkdir()
  (scored / "out/mine-train.tfrecord-00000-of-00001").write_text("precious")
  for flags in ([], ["--overwrite"]):
    capsys.readouterr()
    assert main.main(sample("--sampler=ask_llm", "--rate=0.5", *flags)) == 2
    assert "holds another dataset" in told(capsys)
  assert (scored / "out/mine-train.tfrecord-00000-of-00001").read_text() == "precious"


def test_the_manifest_comes_last_and_a_rerun_completes_the_output(scored, capsys, monkeypatch):
  """Invariant 6. Kills the mutant that writes the manifest before TFDS's metadata."""
  from pipelines import dataset

  def full_disk(*_, **__):
    raise OSError(28, "No space left on device")

  command = sample("--sampler=ask_llm", "--rate=0.5", "--num_shards=3", "--direct_num_workers=1")
  capsys.readouterr()
  with monkeypatch.context() as patch:
    patch.setattr(dataset, "write_dataset_metadata", full_disk)
    assert main.main(command) == 1
  assert "No space left on device" in told(capsys)
  shards = sorted((scored / "out").glob("*.tfrecord-*"))
  written = [path.stat().st_mtime_ns for path in shards]
  assert len(shards) == 3
  assert not (scored / "out/manifest.json").exists()
  assert main.main(command) == 0
  assert [path.stat().st_mtime_ns for path in shards] == written, "finished shards are kept"
  assert (scored / "out/manifest.json").exists()
  assert not (scored / "out/.winnow/runs").exists()


def test_overwrite_leaves_no_stale_shard(scored):
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5", "--num_shards=7")) == 0
  assert main.main(sample("--sampler=random", "--rate=0.5", "--num_shards=3", "--overwrite")) == 0
  shards = sorted(path.name for path in (scored / "out").glob("*.tfrecord-*"))
  assert shards == [f"out-train.tfrecord-{index:05d}-of-00003" for index in range(3)]
  assert json.loads((scored / "out/manifest.json").read_text())["request"]["sampler"] == "random"


def test_the_scorer_of_several_stores_must_be_named(scored, model, capsys):
  assert main.main(score(model, "--name=two", "--direct_num_workers=1")) == 0
  capsys.readouterr()
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5")) == 2
  assert "one, two" in told(capsys)


def test_methods_and_budgets_meet_their_request(scored):
  import pyarrow.parquet as pq

  table = pq.read_table(scored / "scores/one/shards").to_pydict()
  ranked = sorted(zip(table["score"], table["num_tokens"], strict=True))
  for flags, expected in (
    (["--method=bottom_k", "--num_examples=30"], ranked[:30]),
    (["--threshold=" + repr(ranked[50][0])], ranked[50:]),
  ):
    assert main.main([*sample("--sampler=ask_llm", *flags), "--overwrite"]) == 0
    manifest = json.loads((scored / "out/manifest.json").read_text())
    assert manifest["counts"]["selected"] == len(expected)
    assert manifest["tokens"]["selected"] == sum(tokens for _, tokens in expected)
  budget = sum(tokens for _, tokens in ranked[-20:]) + ranked[-21][1] - 1
  assert main.main([*sample("--sampler=ask_llm", f"--num_tokens={budget}"), "--overwrite"]) == 0
  manifest = json.loads((scored / "out/manifest.json").read_text())
  assert manifest["counts"]["selected"] == 20


def test_help_names_every_command_and_flag(capsys):
  assert main.main([]) == 0
  text = capsys.readouterr().out
  assert all(command in text for command in ("score", "sample", "curate", "demo"))
  assert main.main(["scoer"]) == 2
  with pytest.raises(SystemExit, match="0"):
    main.main(["score", "--help"])
  assert "--max_input_tokens" in capsys.readouterr().out
