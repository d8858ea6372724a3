"""`winnow score` where it cannot do what it is asked: one sentence, the right status, nothing half-written."""

import gzip
import json
import pathlib

import corpora
import pytest
import safetensors.numpy
from asking import counted_by_last_run, forget_a_shard, score, summary, told

from pipelines import main

DATAFLOW = ["--runner=DataflowRunner", "--dataflow_endpoint=http://localhost:1", "--sdk_container_image=winnow"]


ON_GCS = ["--input=gs://b/*", "--model=gs://b/m", "--scores=gs://b/s"]


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
    (["--scores=prompt.txt"], "--scores=prompt.txt is a file"),
    (["--runner=NoSuchRunner"], "--runner=NoSuchRunner cannot be used"),
    (["--runner=DataflowRunner"], "Missing required option: project"),
    ([*DATAFLOW, "--model=gs://b/m"], "--input=in/* is on this machine"),
    ([*DATAFLOW, "--input=gs://b/*", "--model=gs://b/m"], "--scores=scores is on this machine"),
    ([*DATAFLOW, "--input=tfds:c4", "--scores=gs://b/s"], "--model="),
    ([*DATAFLOW, *ON_GCS, "--vocabulary=spiece.model"], "--vocabulary=spiece.model is on this machine"),
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


@pytest.mark.parametrize(
  ("link", "to", "words"),
  [
    ("in/more.jsonl", "0.jsonl", "are one file, reached through links"),
    ("in/more.jsonl", "gone.jsonl", "in/more.jsonl is a link to gone.jsonl, which does not exist"),
    ("in/more", ".", "in/more is a link to a folder that contains it"),
  ],
)
def test_links_that_mislead_are_refused_before_anything_is_written(place, model, capsys, link, to, words):
  (place / link).symlink_to(to)
  assert main.main(score(model, "--input=in/**")) == 2
  assert words in told(capsys)
  assert not (place / "scores").exists()


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


def test_where_one_file_is_replaced_only_that_one_is_scored_again(scored, model, capsys):
  """Kills the mutant that starts over: one truncated file would cost the scores of a whole corpus."""
  lines = [json.dumps({"text": text}) for text in corpora.sentences(300, 5)]
  whole = gzip.compress("\n".join(lines).encode())
  (scored / "in/cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
  command = score(model, "--name=one", "--direct_num_workers=1", "--overwrite")
  assert main.main(command) == 1
  (scored / "in/cut.jsonl.gz").write_bytes(whole)
  assert main.main(command) == 0
  assert counted_by_last_run(scored / "scores/one")["documents_scored"] == 300
  assert summary(scored, "one")["scored"] == 420


@pytest.mark.local_runner
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


def test_a_store_whose_request_is_gone_is_nobodys(scored, model, capsys):
  """Kills the mutant that adopts what lies there: scores of one model would be sold as another's."""
  (scored / "scores/one/request.json").unlink()
  capsys.readouterr()
  assert main.main(score(model, "--name=one", "--max_input_tokens=63")) == 2
  assert "its request.json is gone" in told(capsys)
  assert main.main(score(model, "--name=one", "--max_input_tokens=63", "--overwrite")) == 0
  assert counted_by_last_run(scored / "scores/one")["documents_scored"] == 120


def test_overwrite_starts_a_complete_store_over_and_goes_on_with_a_begun_one(scored, model):
  """Kills the mutant that clears whatever is there: `--overwrite` killed and typed again would never get further."""
  store = scored / "scores/one"
  assert main.main(score(model, "--name=one", "--overwrite")) == 0
  assert counted_by_last_run(store)["documents_scored"] == 120
  forget_a_shard(store)
  assert main.main(score(model, "--name=one", "--overwrite")) == 0
  assert counted_by_last_run(store)["documents_scored"] == 40


@pytest.mark.local_runner
def test_scores_of_another_engine_are_told_before_anything_is_written(scored, model, capsys):
  """Kills the mutant that leaves it to the workers: `curate --overwrite`, which spares scores, would fail for ever."""
  store = scored / "scores/one"
  forget_a_shard(store)
  engine = json.loads((store / "engine.json").read_text())
  (store / "engine.json").write_text(json.dumps(engine | {"jax": "0.0.1"}))
  capsys.readouterr()
  assert main.main(score(model, "--name=one")) == 2
  assert 'jax "0.0.1"' in told(capsys)
  curate = ["curate", *score(model, "--name=one")[1:], "--rate=0.5", "--output=out", "--overwrite"]
  assert main.main(curate) == 0
  assert counted_by_last_run(scored / "out")["documents_scored"] == 120
  assert json.loads((store / "engine.json").read_text()) == engine


def test_an_engine_that_only_a_worker_knows_is_told_with_a_way_out(scored, model, capsys):
  store = scored / "scores/one"
  forget_a_shard(store)
  engine = json.loads((store / "engine.json").read_text())
  (store / "engine.json").write_text(json.dumps(engine | {"device_kind": "abacus"}))
  capsys.readouterr()
  assert main.main(score(model, "--name=one", "--direct_num_workers=1")) == 1
  sentence = told(capsys)
  assert 'device_kind is "abacus" there' in sentence
  assert f"delete {store} to start over" in sentence


def test_curate_refuses_what_cannot_be_drawn_before_it_clears_the_output(scored, model, capsys):
  """Kills the mutant that asks for the request's sense only inside the pipeline."""
  command = ["curate", *score(model, "--name=one")[1:], "--output=out"]
  assert main.main([*command, "--rate=0.5"]) == 0
  before = {path: path.read_bytes() for path in (scored / "out").rglob("*") if path.is_file()}
  capsys.readouterr()
  assert main.main([*command, "--num_examples=121", "--overwrite"]) == 2
  assert "more than the 120 documents" in told(capsys)
  assert {path: path.read_bytes() for path in (scored / "out").rglob("*") if path.is_file()} == before


def test_killed_between_two_requests_nothing_is_lost(scored, model):
  """request.json of the old request is removed last and the new one is written then. Kills the mutant that clears a
  folder whose request is gone, where every file says itself whose it is."""
  store = scored / "scores/one"
  (store / "request.json").unlink()
  forget_a_shard(store)
  assert main.main(score(model, "--name=one", "--overwrite")) == 0
  assert counted_by_last_run(store)["documents_scored"] == 40


def test_overwrite_gets_out_of_every_damage(scored, model, capsys):
  """Kills the mutants whose messages name a way out that is none."""
  store = scored / "scores/one"
  curate = ["curate", *score(model, "--name=one")[1:], "--rate=0.5", "--output=out", "--direct_num_workers=1"]
  assert main.main(curate) == 0
  for path in (store / "engine.json", store / "summary.json", store / "request.json", store / "shards/2.jsonl.parquet"):
    path.write_bytes(path.read_bytes()[:20])
    assert main.main([*curate, "--overwrite"]) == 0, path
    assert summary(scored, "one")["scored"] == 120
  for name in ("manifest.json", "dataset_info.json", ".winnow/request.json", ".winnow/engine.json"):
    (scored / "out" / name).write_bytes(b"{")
    assert main.main([*curate, "--overwrite"]) == 0, name
  capsys.readouterr()
  (store / "engine.json").unlink()
  assert main.main(curate) == 1
  assert "engine.json, or that file is missing" in told(capsys)
  assert main.main([*curate, "--overwrite"]) == 0
