"""Stores that are there are used as they were made, unless flags contradict them."""

import json
import pathlib
import shutil

import corpora
import numpy as np
import pytest
from running import content, run_in

from pipelines.flags import parsing
from pipelines.registry import command_names

READING = ["--input=corpus/*", "--embeddings=made/*", "--scores=scores", "--direct_num_workers=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """Embeddings in float32 and five clusters of them, under their default names."""
  folder = tmp_path_factory.mktemp("there")
  for name in ("corpus", "made"):
    (folder / name).mkdir()
  for shard in ("a", "b"):
    texts = corpora.sentences(150, ord(shard))
    (folder / f"corpus/{shard}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    points_ND = np.random.default_rng(ord(shard)).standard_normal((150, 8)).astype(np.float32)
    np.save(folder / f"made/{shard}.jsonl.npy", points_ND)
  assert run_in(folder, ["embed", *READING, "--embedding_dtype=float32", "--block_rows=40"]) == 0
  cluster = ["cluster", "--embeddings=scores/embeddings_made", "--num_clusters=5", "--kmeans_seed=3"]
  assert run_in(folder, [*cluster, "--direct_num_workers=1"]) == 0
  return folder


@pytest.mark.local_runner
@pytest.mark.parametrize("scorer", ["semdedup", "prototypes"])
def test_clusters_that_are_there_are_used(place, capsys, scorer):
  """Kills the mutant that asks for the default of 10,000 clusters of 300 documents, with five of them there."""
  score = ["score", f"--scorer={scorer}", *READING, "--block_rows=40"]
  before = content(place / "scores/clusters_made")
  capsys.readouterr()
  assert run_in(place, [*score, "--num_clusters=10000"]) == 2
  assert "--num_clusters=10000 is more than the 300 " in capsys.readouterr().err
  assert run_in(place, [*score, "--kmeans_seed=4"]) == 2
  assert "clusters_made belongs to another request: kmeans_seed is 3 there and 4 now" in capsys.readouterr().err
  assert not (place / f"scores/{scorer}_made").exists()
  assert run_in(place, score) == 0
  error = capsys.readouterr().err
  assert "clusters_made exists and is used as it was made, with --num_clusters=5 --kmeans_seed=3\n" in error
  assert "embeddings_made exists and is used as it was made, with --embedding_dtype=float32\n" in error
  assert content(place / "scores/clusters_made") == before
  assert json.loads((place / f"scores/{scorer}_made/summary.json").read_text())["scored"] == 300


@pytest.mark.parametrize("flag", [[], ["--overwrite"]])
def test_nothing_is_taken_from_a_store_of_other_embeddings(place, tmp_path, capsys, flag):
  """Of the same name, made of other vectors. Kills the mutants: a store that fits by its scorer alone; one that
  --overwrite deletes, whose settings go on all the same.
  """
  shutil.copytree(place, tmp_path / "place")
  for path in (tmp_path / "place/made").iterdir():
    np.save(path, 2 * np.load(path)[:, ::-1])
  command = ["score", "--scorer=prototypes", *READING, "--block_rows=40", "--num_clusters=7", *flag]
  capsys.readouterr()
  assert run_in(tmp_path / "place", command) == (0 if flag else 2)
  error = capsys.readouterr().err
  assert "is used as it was made" not in error
  request = json.loads((tmp_path / "place/scores/embeddings_made/request.json").read_text())
  assert request["embedding_dtype"] == ("float16" if flag else "float32")


def test_a_command_says_what_it_took_from_a_store():
  """Else the manifest's command would make 10,000 clusters. Kills the mutant that keeps it to itself."""
  argv = ["--scorer=semdedup", "--input=i", "--scores=s", "--output=o", "--rate=1", "--kmeans_seed=0"]
  namespace, _ = parsing.parse(command_names.CURATE, argv)
  made = {"num_clusters": 5, "kmeans_seed": 3, "lloyd_iterations": 0}
  assert parsing.adopt(namespace, made, ("num_clusters", "kmeans_seed", "lloyd_iterations")) == ["--num_clusters=5"]
  assert (namespace.num_clusters, namespace.kmeans_seed) == (5, 0)
  assert "--num_clusters=5" in parsing.own_arguments(command_names.CURATE, [namespace])
