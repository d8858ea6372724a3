"""The end of a command: quantiles, shares, and a command that one can type next."""

import json
import pathlib
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
from asking import DRAWING, sample, score

from pipelines import main
from pipelines.jobs import endings
from pipelines.store.score_store import ScoreStore

ONE = "--direct_num_workers=1"


def next_command(said: str) -> list[str]:
  """Returns the arguments of the command after "next:", as a shell has them."""
  assert max(map(len, said.splitlines())) <= 80 + len(str(pathlib.Path.cwd()))  # lines with a path are as long as it is
  name, *arguments = shlex.split(said.partition("\nnext:\n")[2].replace("\\\n", ""))
  assert name == "winnow"
  return arguments


def run(capsys, *arguments: str) -> str:
  capsys.readouterr()
  assert main.main([*arguments, ONE]) == 0
  output, error = capsys.readouterr()
  assert "\ndone in 0:0" in f"\n{error}"
  return output


def scores_of(store: pathlib.Path) -> np.ndarray:
  return np.concatenate([pq.read_table(path)["score"].to_numpy() for path in sorted((store / "shards").iterdir())])


def test_score_tells_quantiles_and_its_next_commands_lead_to_a_report(scored, model, capsys):
  """Kills: quantiles of one shard, or between two scores; shares of the wrong whole; a command that is refused."""
  said = run(capsys, *score(model, "--name=one"))
  expected = np.sort(scores_of(scored / "scores/one"))[[0, 11, 59, 107, 119]]
  names = ("min", "10%", "50%", "90%", "max")
  assert "quantiles: " + ", ".join(f"{name} {value:.4g}" for name, value in zip(names, expected, strict=True)) in said
  said = run(capsys, *next_command(said))
  manifest = json.loads((scored / "sample_one/manifest.json").read_text())
  tokens = manifest["tokens"]
  kept = f"{100 * tokens['selected'] / tokens['scored']:.3g}%"
  assert said.startswith("24 of 120 documents selected (20%)\n")
  assert f"\n{tokens['selected']:,} of {tokens['scored']:,} tokens selected ({kept})\n" in said
  assert next_command(said) == ["report", "--scores=scores", "--output=sample_one", "--report=report"]
  assert main.main(next_command(said)) == 0 and (scored / "report/report.html").exists()


def test_the_next_command_has_the_options_of_the_runner(scored, model, capsys):
  """Kills: options that a user has to type again, and those of one job alone."""
  options = ["--job_name=first", "--direct_running_mode", "in_memory", ONE]
  assert endings.runner_options(options) == options[1:]
  said = run(capsys, *score(model, "--name=one"), *options[:3])
  assert next_command(said)[-3:] == options[1:]


def test_of_two_stores_of_a_scorer_the_next_command_names_one(scored, model, capsys):
  run(capsys, *score(model, "--name=two", "--max_input_tokens=63"))
  said = run(capsys, *score(model, "--name=one"))
  assert "--name=one" in next_command(said)


def test_embed_and_cluster_lead_to_scores(place, capsys):
  """Kills: a next command without the fields of the input, with a store's name as another's, or with bare spaces."""
  (place / "my vectors").mkdir()
  for shard in range(3):
    text = (place / f"in/{shard}.jsonl").read_text()
    (place / f"in/{shard}.jsonl").write_text(text.replace('"text"', '"body"'))
    vectors_ND = np.random.default_rng(shard).standard_normal((40, 4)).astype(np.float32)
    np.save(place / f"my vectors/{shard}.npy", vectors_ND)
  vectors = f"--embeddings={place}/my vectors/*.npy"
  said = run(capsys, "embed", f"--input={place}/in/*", vectors, "--scores=my scores", "--name=e", "--text_field=body")
  assert "quantiles" not in said
  run(capsys, *next_command(said))
  assert sorted(path.name for path in (place / "my scores").iterdir()) == ["density_my_vectors", "e"]
  said = run(capsys, "cluster", "--embeddings=my scores/e", "--num_clusters=3", "--clusters=my scores/three")
  run(capsys, *next_command(said))
  names = ["density_my_vectors", "e", "prototypes_my_vectors", "three"]
  assert sorted(path.name for path in (place / "my scores").iterdir()) == names


def test_quantiles_of_many_scores_come_from_blocks_of_the_whole_corpus(place, model, capsys, monkeypatch):
  """Kills: blocks that are counted anew in each shard, a sample that is not called one, a limit that is not held."""
  run(capsys, *score(model, "--name=one", "--block_rows=5"))
  store = ScoreStore.at(f"{place}/scores/one")
  assert store is not None
  monkeypatch.setattr(endings, "_MOST_SCORES", 50)
  expected = np.sort(scores_of(place / "scores/one").reshape(24, 5)[::3].ravel())
  assert endings.quantiles(store).startswith(f"quantiles of 40 scores: min {expected[0]:.4g}, 10% {expected[3]:.4g}, ")
  monkeypatch.setattr(endings, "_MOST_BLOCKS", 6)
  assert endings.quantiles(store).startswith("quantiles of 30 scores: ")


def test_a_random_sample_leads_to_its_verification(place, capsys):
  said = run(capsys, "sample", "--sampler=random", "--input=in/*", "--num_examples=30", "--output=any part")
  assert said.startswith("30 of 120 documents selected (25%)\ndataset any_part, ")
  assert next_command(said) == ["verify", "any part", ONE]
  assert main.main(next_command(said)) == 0


def test_rejected_documents_and_tokens_are_the_rest(scored, capsys):
  said = run(capsys, *sample(*DRAWING[:1], "--rate=0.25", "--rejected=rest"))
  lines = said.splitlines()
  assert lines[0] == "30 of 120 documents selected (25%)"
  rejected = lines.index("90 of 120 documents rejected (75%)")
  kept, rest = (int(lines[place].split()[0].replace(",", "")) for place in (1, rejected + 1))
  assert kept + rest == json.loads((scored / "out/manifest.json").read_text())["tokens"]["scored"]


@pytest.mark.parametrize(("part", "whole", "shown"), [(0, 0, "0%"), (1, 8_000, "0.0125%"), (62, 1_000, "6.2%")])
def test_shares_have_three_digits(part, whole, shown):
  assert endings.share(part, whole) == shown
