"""Commands that cannot do what they are asked: one sentence, the right status, nothing half-written."""

import gzip
import json
import pathlib
import shutil

import corpora
import pytest
import safetensors.numpy

from pipelines import main
from pipelines.output import manifests


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


# An endpoint that Beam asks nothing, so that no credentials are looked for.
DATAFLOW = ["--runner=DataflowRunner", "--dataflow_endpoint=http://localhost:1", "--sdk_container_image=winnow"]


ON_GCS = ["--input=gs://b/*", "--model=gs://b/m", "--scores=gs://b/s"]


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


def summary(place: pathlib.Path, name: str) -> dict:
  return json.loads((place / f"scores/{name}/summary.json").read_text())


def last_counters(folder: pathlib.Path) -> dict[str, int]:
  logs = sorted((folder / "log").iterdir(), key=lambda path: path.stat().st_mtime_ns)
  return json.loads(logs[-1].read_text())["counters"]


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
  assert last_counters(scored / "scores/one")["documents_scored"] == 300
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


@pytest.fixture
def scored(place, model) -> pathlib.Path:
  assert main.main(score(model, "--name=one", "--direct_num_workers=1")) == 0
  return place


def forget_a_shard(store: pathlib.Path) -> None:
  """Makes a complete store one that was killed before its last shard."""
  (store / "summary.json").unlink()
  (store / "shards/1.jsonl.parquet").unlink()


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
    (["--sampler=cosine", "--rate=0.5"], "invalid choice"),
    (["--sampler=ask_llm", "--rate=0.5", "--text_field=body"], "--text_field was settled"),
    (["--sampler=ask_llm", "--rate=0.5", "--output=prompt.txt"], "--output=prompt.txt is a file"),
  ],
)
def test_samples_that_cannot_be_drawn_are_refused(scored, capsys, flags, words):
  capsys.readouterr()
  assert main.main(sample(*flags)) == 2
  assert words in told(capsys)
  assert not (scored / "out").exists()


DRAWING = ["--sampler=ask_llm", "--rate=0.5", "--direct_num_workers=1"]


OTHER_KINDS = [
  (["sample", *DRAWING, "--scores=scores/one", "--output=new"], "--scores=scores/one is one score store, one; name"),
  (["sample", *DRAWING, "--scores=out", "--output=new"], "--scores=out is an output of winnow sample and holds no"),
  (["sample", *DRAWING, "--scores=in", "--output=new"], "--scores=in holds no score stores; name the folder that"),
  (["sample", *DRAWING, "--scores=nowhere", "--output=new"], "--scores=nowhere does not exist; name the folder that"),
  (["sample", *DRAWING, "--scores=scores", "--output=scores/one"], "--output=scores/one is a score store; choose"),
  (["sample", *DRAWING, "--scores=scores", "--output=new", "--rejected=scores/one"], "--rejected=scores/one is a sc"),
  (["sample", "--sampler=random", "--rate=1", "--input=in/*", "--output=new", "--name=one"], "--name=one is that of"),
  (["score", "--scores=scores/one", "--input=in/*", "--model=m"], "--scores=scores/one is one score store, one"),
  (["report", "--scores=scores/one", "--report=new"], "--scores=scores/one is one score store, one; name the folder"),
  (["report", "--scores=scores", "--report=new", "--output=scores"], "--output=scores is a folder of score stores ("),
  (["report", "--scores=scores", "--report=new", "--output=in"], "--output=in is no output of winnow sample, since"),
  (["explain", "0.jsonl#3", "--scores=scores/one"], "--scores=scores/one is one score store, one; name the folder"),
  (["explain", "0.jsonl#3", "--scores=scores", "--output=scores/one"], "scores/one is a score store, which winnow"),
  (["verify", "scores/one"], "scores/one is a score store, which winnow status looks at; name the folder that"),
  (["verify", "scores"], "scores is a folder of score stores (one); name the folder that winnow sample wrote to"),
  (["verify", "begun"], "begun is an incomplete output, since it has no manifest.json; run its command"),
  (["verify", "out", "--scores=scores/one"], "--scores=scores/one is one score store, one; name the folder above"),
  (["status", "out"], "out is an output of winnow sample and holds no score stores; name"),
  (["cluster", "--embeddings=scores/one"], "--embeddings=scores/one is no store of embeddings; name the folder"),
  (
    ["score", "--scorer=density", "--embeddings=scores/one", "--scores=scores", "--input=in/*"],
    "--embeddings=scores/one is a store; repeat the --model= or the --embeddings= that it was made with, and name it",
  ),
  (["evaluate", "--scores=scores/one", "--models=m", "--input=in/*"], "--scores=scores/one is one score store, one"),
]


@pytest.mark.local_runner
def test_a_folder_of_another_kind_is_refused_with_the_right_one(scored, capsys):
  """Kills the mutants: a store that is searched for stores below it; an output whose folder of work passes for one."""
  assert main.main(sample(*DRAWING)) == 0
  (scored / "begun").mkdir()
  shutil.copytree(scored / "out/.winnow", scored / "begun/.winnow")
  before = sorted(scored.rglob("*"))
  failed = []
  for arguments, words in OTHER_KINDS:
    capsys.readouterr()
    status = main.main(arguments)
    error = capsys.readouterr().err
    if status != 2 or words not in error:
      failed.append((arguments, status, error))
  assert not failed
  assert main.main(["status", "out"]) == 2
  assert told(capsys).endswith(f"holds no score stores; name {scored}/scores")
  assert sorted(scored.rglob("*")) == before


def test_a_dataset_has_a_name_of_its_own(scored, capsys):
  """--name is a store's: two rates drawn from one store are two datasets. Kills the mutant that calls both by it."""
  for rate in ("0.25", "0.5"):
    assert main.main(sample(*DRAWING, f"--rate={rate}", "--name=one", f"--output=C4-{rate}")) == 0
  names = [json.loads((scored / f"C4-{rate}/manifest.json").read_text())["dataset"] for rate in ("0.25", "0.5")]
  assert names == ["c4_0_25", "c4_0_5"]
  assert main.main(sample(*DRAWING, "--name=one", "--dataset_name=best_half", "--output=named")) == 0
  assert (scored / "named/best_half-train.tfrecord-00000-of-00001").exists()
  assert main.main(["verify", "named", "--direct_num_workers=1"]) == 0
  capsys.readouterr()
  assert main.main(sample(*DRAWING, "--dataset_name=Best-Half", "--output=other")) == 2
  assert "--dataset_name=Best-Half is no name that TFDS takes; write --dataset_name=best_half" in told(capsys)
  assert not (scored / "other").exists()


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


def test_a_store_whose_request_is_gone_is_nobodys(scored, model, capsys):
  """Kills the mutant that adopts what lies there: scores of one model would be sold as another's."""
  (scored / "scores/one/request.json").unlink()
  capsys.readouterr()
  assert main.main(score(model, "--name=one", "--max_input_tokens=63")) == 2
  assert "its request.json is gone" in told(capsys)
  assert main.main(score(model, "--name=one", "--max_input_tokens=63", "--overwrite")) == 0
  assert last_counters(scored / "scores/one")["documents_scored"] == 120


def test_overwrite_starts_a_complete_store_over_and_goes_on_with_a_begun_one(scored, model):
  """Kills the mutant that clears whatever is there: `--overwrite` killed and typed again would never get further."""
  store = scored / "scores/one"
  assert main.main(score(model, "--name=one", "--overwrite")) == 0
  assert last_counters(store)["documents_scored"] == 120
  forget_a_shard(store)
  assert main.main(score(model, "--name=one", "--overwrite")) == 0
  assert last_counters(store)["documents_scored"] == 40


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
  assert last_counters(scored / "out")["documents_scored"] == 120
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


@pytest.mark.local_runner
def test_an_output_of_other_scores_is_told_what_differs_in_them(scored, model, capsys):
  """Kills the mutant that shows two digests."""
  assert main.main(sample(*DRAWING)) == 0
  assert main.main(score(model, "--name=one", "--max_input_tokens=63", "--overwrite", "--direct_num_workers=1")) == 0
  capsys.readouterr()
  assert main.main(sample(*DRAWING)) == 2
  assert "out was drawn from other scores: their max_input_tokens is 64 there and 63 now; choose another" in told(
    capsys
  )
  (scored / "out/.winnow/scores.json").unlink()
  assert main.main(sample(*DRAWING)) == 2
  assert "(a digest of the request for the scores: scorer, model, prompt, limits and input) there and" in told(capsys)


def test_a_damaged_score_file_costs_its_shard_alone(scored, model, capsys):
  import pyarrow.parquet as pq

  store = scored / "scores/one"
  path = store / "shards/1.jsonl.parquet"
  column = pq.read_metadata(path).row_group(0).column(2)
  content = bytearray(path.read_bytes())
  content[column.data_page_offset + column.total_compressed_size - 1] ^= 0xFF
  path.write_bytes(bytes(content))
  capsys.readouterr()
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5", "--direct_num_workers=1")) == 1
  sentence = told(capsys)
  assert "shards/1.jsonl.parquet is missing or damaged" in sentence
  assert "the damaged file was removed: run the command that made" in sentence
  assert not path.exists()
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5", "--direct_num_workers=1")) == 2
  assert "is not complete; run its winnow score command again" in told(capsys)
  assert main.main(score(model, "--name=one")) == 0
  assert last_counters(store)["documents_scored"] == 40
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5", "--direct_num_workers=1")) == 0


def test_killed_between_two_requests_nothing_is_lost(scored, model):
  """request.json of the old request is removed last and the new one is written then. Kills the mutant that clears a
  folder whose request is gone, where every file says itself whose it is."""
  store = scored / "scores/one"
  (store / "request.json").unlink()
  forget_a_shard(store)
  assert main.main(score(model, "--name=one", "--overwrite")) == 0
  assert last_counters(store)["documents_scored"] == 40


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
  assert "engine.json says, or it is missing" in told(capsys)
  assert main.main([*curate, "--overwrite"]) == 0


def test_a_damaged_record_of_a_shard_is_made_again(scored):
  command = sample("--sampler=ask_llm", "--rate=0.5", "--num_shards=2", "--direct_num_workers=1")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(manifests, "publish", lambda *_, **__: 1 / 0)
    assert main.main(command) == 1
  records = sorted((scored / "out/.winnow/runs").glob("*/*.json"))
  assert len(records) == 2
  records[0].write_bytes(b"")
  assert main.main(command) == 0


def test_a_strange_folder_beside_the_stores_is_passed_over(scored):
  (scored / "scores/x").mkdir()
  for content in ("[1]", ""):
    (scored / "scores/x/request.json").write_text(content)
    assert main.main([*sample("--sampler=ask_llm", "--rate=0.5"), "--overwrite"]) == 0


def test_paths_may_hold_what_globs_are_made_of(scored, capsys):
  """Kills the mutant that finds its own files by globs."""
  odd = scored / "odd [a-c]*?"
  (scored / "scores").rename(odd)
  flags = [f"--scores={odd}", "--sampler=ask_llm", "--rate=0.5", f"--output={odd}/out", "--num_shards=3"]
  assert main.main(["sample", *flags]) == 0
  capsys.readouterr()
  assert main.main(["sample", *flags, "--num_shards=2", "--overwrite"]) == 0
  assert "60 of 120 documents selected" in capsys.readouterr().out
  assert len(list(odd.glob("out/*.tfrecord-*"))) == 2


def test_what_another_run_left_in_the_output_is_noticed(scored, capsys):
  """A run of another request still wrote a shard. Kills the mutants that take whatever has the name."""
  command = sample("--sampler=ask_llm", "--rate=0.5", "--num_shards=2", "--direct_num_workers=1")
  assert main.main(command) == 0
  output = scored / "out"
  shard = output / "out-train.tfrecord-00001-of-00002"
  sound = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
  for name, content in ((shard.name, b""), ("dataset_info.json", b"{}"), ("manifest.json", b'{"fingerprint": "x"}')):
    (output / "manifest.json").unlink()
    (output / name).write_bytes(content)
    capsys.readouterr()
    assert main.main(command) == 1
    assert name in told(capsys)
    assert main.main([*command, "--overwrite"]) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == sound


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
  from pipelines.output import tfds_metadata

  def full_disk(*_, **__):
    raise OSError(28, "No space left on device")

  command = sample("--sampler=ask_llm", "--rate=0.5", "--num_shards=3", "--direct_num_workers=1")
  capsys.readouterr()
  with monkeypatch.context() as patch:
    patch.setattr(tfds_metadata, "write_dataset_metadata", full_disk)
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


def test_methods_and_budgets_meet_their_request(scored, capsys):
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
  # What is left of a budget is told, and warned of where it is much. Kills: a budget above the corpus without a word.
  unused, total = ranked[-21][1] - 1, sum(tokens for _, tokens in ranked)
  warned = (
    f"winnow: warning: --num_tokens={budget} leaves {unused / budget:.2%} unused, since the next document in order"
  )
  output, error = capsys.readouterr()
  assert f"; {unused:,} of the budget's {budget:,} tokens are left\n" in output and warned in error
  for budget, left, warned in (
    (total - ranked[0][1], 0, None),
    (total, 0, None),
    (
      total + 1,
      1,
      f"--num_tokens={total + 1} is more than all documents have, {total:,} tokens, so that all are selected",
    ),
  ):
    assert main.main([*sample("--sampler=ask_llm", f"--num_tokens={budget}"), "--overwrite"]) == 0
    output, error = capsys.readouterr()
    assert f"; {left:,} of the budget's {budget:,} tokens are left\n" in output
    assert warned in error if warned else "warning" not in error


def test_help_names_every_command_and_flag(capsys):
  assert main.main([]) == 0
  text = capsys.readouterr().out
  assert all(command in text for command in ("score", "sample", "curate", "demo"))
  assert main.main(["scoer"]) == 2
  with pytest.raises(SystemExit, match="0"):
    main.main(["score", "--help"])
  assert "--max_input_tokens" in capsys.readouterr().out
