"""`winnow sample` where it cannot do what it is asked, and where it can: what is selected, what is left of others."""

import json

import pytest
from asking import DRAWING, counted_by_last_run, sample, score, told

from pipelines import main
from pipelines.output import manifests


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
  assert f"\n{unused:,} of the budget's {budget:,} tokens are left\n" in output and warned in error
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
    assert f"\n{left:,} of the budget's {budget:,} tokens are left\n" in output
    assert warned in error if warned else "warning" not in error


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
  assert counted_by_last_run(store)["documents_scored"] == 40
  assert main.main(sample("--sampler=ask_llm", "--rate=0.5", "--direct_num_workers=1")) == 0
