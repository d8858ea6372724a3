"""Clusters through the commands: one clustering and one set of scores, whoever computes and however often.

Twelve shards in all formats, over a hundred blocks, bad records in the middle, with embeddings made elsewhere around
forty centres of uneven weight.
"""

import json
import pathlib
import shutil

import corpora
import dividing
import numpy as np
import pyarrow.parquet as pq
import pytest
from running import content, embedded, logs, run_in, shards_of

from curation.coverage import centroid_files, kmeans
from pipelines import main
from pipelines.flags import parsing
from pipelines.registry import command_names
from pipelines.scorers.clusters import clustering
from pipelines.scorers.clusters.preparation import CentroidsPreparation

BIG_ROWS, SMALL_ROWS, DIMENSIONS, CLUSTERS = 6_000, 500, 12, 50
KMEANS = [f"--num_clusters={CLUSTERS}", "--kmeans_sample=100", "--kmeans_iterations=6", "--lloyd_iterations=2"]


def make_embeddings(shard: str, rows: int) -> np.ndarray:
  """float32 [rows, D], not of length 1."""
  generator = np.random.default_rng(list(shard.encode()))
  centres = np.random.default_rng(1).standard_normal((40, DIMENSIONS))
  weights = 1 / np.arange(1, 41)
  points = centres[generator.choice(40, rows, p=weights / weights.sum())]
  points = points + 0.3 * generator.standard_normal((rows, DIMENSIONS))
  return (points * generator.uniform(0.5, 20, (rows, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("clusters")
  corpora.write_with_embeddings(folder, make_embeddings, big_rows=BIG_ROWS, small_rows=SMALL_ROWS, bad_row=300)
  return folder


def reading(place: pathlib.Path) -> list[str]:
  return [f"--input={place}/corpus/*", f"--embeddings={place}/made/*", "--scores=scores", "--block_rows=100"]


def cluster_command(*more: str) -> list[str]:
  return ["cluster", "--embeddings=scores/embeddings_made", *KMEANS, *more]


def score_command(place: pathlib.Path, *more: str) -> list[str]:
  return ["score", "--scorer=prototypes", *reading(place), *KMEANS, *more]


SAMPLE = ["sample", "--scores=scores", "--sampler=prototypes", "--rate=0.2", "--output=out", "--num_shards=3"]
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  """Embeddings, clusters, scores and a sample, each by its own command in one process."""
  folder = place / "undisturbed"
  for command in (["embed", *reading(place)], cluster_command(), score_command(place), SAMPLE):
    assert run_in(folder, [*command, ONE]) == 0
  return folder


def clusters_of(folder: pathlib.Path) -> pathlib.Path:
  return folder / "scores/clusters_made"


def centroids_of(folder: pathlib.Path) -> np.ndarray:
  with (clusters_of(folder) / "centroids/centroids.safetensors").open("rb") as file:
    return centroid_files.load(file, "c").centroids_KD


def test_every_document_has_its_nearest_centroid_and_the_books_balance(place, undisturbed):
  """Kills the mutants: rows of one block with the clusters of another; bad rows that shift those behind them."""
  table, points = shards_of(clusters_of(undisturbed)), embedded(undisturbed)
  summary = json.loads((clusters_of(undisturbed) / "summary.json").read_text())
  assert summary["read"] == summary["scored"] + summary["bad"] == BIG_ROWS + 11 * SMALL_ROWS + 3 - summary["blank"]
  assert (summary["reasons"]["embedding_is_zero"], summary["reasons"]["embedding_is_not_finite"]) == (1, 1)
  documents = list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
  assert len(documents) == summary["scored"] and set(documents) == points.keys()
  points_ND = np.array([points[document] for document in documents]).astype(np.float64)
  points_ND /= np.linalg.norm(points_ND, axis=1, keepdims=True)
  cosines_NK = points_ND @ centroids_of(undisturbed).astype(np.float64).T
  np.testing.assert_array_equal(table["cluster"].to_numpy(), cosines_NK.argmax(axis=1))
  np.testing.assert_allclose(table["cosine"].to_numpy(), cosines_NK.max(axis=1), atol=1e-6)
  told = json.loads((clusters_of(undisturbed) / "centroids/diagnostics.json").read_text())
  assert told["sizes"] == np.bincount(table["cluster"].to_numpy(), minlength=CLUSTERS).tolist()
  assert told["inertia"] == pytest.approx(2 - 2 * table["cosine"].to_numpy().mean(dtype=float), abs=1e-6)
  assert len(told["training"]["inertia"]) <= 6 and len(told["training"]["lloyd_inertia"]) == 2
  assert CLUSTERS * 100 <= told["training"]["sample_points"] <= CLUSTERS * 100 + 6 * 71 + 60 + 6 * 80


def test_blocks_of_clusters_lie_beside_those_of_embeddings(undisturbed):
  """What joins embeddings with clusters reads both block by block. Kills: bad rows that only one of them has."""
  embeddings = sorted((undisturbed / "scores/embeddings_made/blocks").glob("*/*.parquet"))
  clusters = sorted((clusters_of(undisturbed) / "blocks").glob("*/*.parquet"))
  assert len(embeddings) == len(clusters) > 100
  for path, other in zip(embeddings, clusters, strict=True):
    ours, theirs = pq.read_table(path, columns=["row", "reason"]), pq.read_table(other)
    assert ours == theirs.select(["row", "reason"])
    bad = len(ours) - ours["reason"].null_count
    assert theirs["cluster"].null_count == theirs["cosine"].null_count == bad


def test_iterations_in_beam_are_those_of_the_arrays(place, undisturbed):
  """Whole groups of blocks, and a group of few: the same centroids as one loop over all embeddings.

  Kills the mutants: a group that is summed twice or left out; sums of another iteration's centroids.
  """
  folder = place / "small_groups"
  shutil.copytree(undisturbed / "scores/embeddings_made", folder / "scores/embeddings_made")
  with dividing.divided(CentroidsPreparation, group=700, merged_at_once=4):
    assert run_in(folder, [*cluster_command(), ONE]) == 0
  assert content(clusters_of(folder)) == content(clusters_of(undisturbed))
  assert run_in(folder, [*cluster_command("--clusters=none", "--lloyd_iterations=0"), ONE]) == 0
  with (folder / "none/centroids/centroids.safetensors").open("rb") as file:
    centroids_KD = centroid_files.load(file, "c").centroids_KD
  points_ND = np.array(list(embedded(undisturbed).values()))
  for _ in range(2):
    sums = kmeans.Sums.empty(CLUSTERS, DIMENSIONS)
    sums.add(points_ND, kmeans.Centroids(centroids_KD).assign(points_ND))
    centroids_KD = sums.centroids(centroids_KD)
  np.testing.assert_array_equal(centroids_KD, centroids_of(undisturbed))


def test_prototypes_are_minus_the_cosine_and_the_sample_the_least_like_them(undisturbed):
  """Kills the mutants: the most prototypical kept; scores of other rows."""
  import tensorflow_datasets as tfds

  clusters, scores = shards_of(clusters_of(undisturbed)), shards_of(undisturbed / "scores/prototypes_made")
  for name in ("shard", "row", "domain", "num_tokens"):
    assert clusters[name].combine_chunks() == scores[name].combine_chunks(), name
  np.testing.assert_array_equal(scores["score"].to_numpy(), -clusters["cosine"].to_numpy())
  cosines_N = clusters["cosine"].to_numpy()
  kept_N = np.sort(cosines_N)[: int(0.2 * len(cosines_N) + 0.5)]
  drawn = tfds.builder_from_directory(str(undisturbed / "out")).as_dataset(split="train")
  found_N = np.sort([-example["score"] for example in tfds.as_numpy(drawn)])
  np.testing.assert_array_equal(found_N, kept_N)


@pytest.mark.long
@pytest.mark.local_runner
def test_one_command_in_two_processes_gives_the_same(place, undisturbed):
  """Embeds, clusters and scores. Kills the mutants: a sample in the order of workers; sums that depend on it."""
  folder = place / "two"
  assert run_in(folder, [*score_command(place), TWO]) == 0
  assert content(folder / "scores") == content(undisturbed / "scores")
  (log,) = logs(folder / "scores/prototypes_made")
  for stage in ("embedding", "assigning clusters", "scoring (prototypes)"):
    assert len(log["documents_by_process"][stage]) == 2, stage
  passes = [log["documents_by_process"][f"refining centroids, pass {number} of 2"] for number in (1, 2)]
  assert [sum(counts.values()) for counts in passes] == [log["counters"]["documents_scored"]] * 2


def test_other_blocks_give_the_same_clusters_and_scores(place, undisturbed):
  """Invariant 1. Kills the mutant whose cosine is the matrix product's own."""
  folder = place / "other_blocks"
  assert run_in(folder, [*score_command(place, "--block_rows=1001"), ONE]) == 0
  np.testing.assert_array_equal(centroids_of(folder), centroids_of(undisturbed))
  assert shards_of(clusters_of(folder)) == shards_of(clusters_of(undisturbed))
  assert shards_of(folder / "scores/prototypes_made") == shards_of(undisturbed / "scores/prototypes_made")


@pytest.fixture
def copied(tmp_path, undisturbed) -> pathlib.Path:
  shutil.copytree(undisturbed / "scores", tmp_path / "scores")
  return tmp_path


def test_a_partial_store_goes_on_block_by_block(copied, undisturbed, capsys):
  """Kills the mutants: blocks on record that are computed again; a block that is damaged and stays."""
  store = clusters_of(copied)
  (store / "summary.json").unlink()
  (store / "centroids/diagnostics.json").unlink()
  (store / "shards/big.jsonl.gz.parquet").unlink()
  blocks = sorted(store.glob("blocks/big.jsonl.gz-*/*.parquet"))
  for path in blocks[3:30]:
    path.unlink()
  blocks[40].write_bytes(blocks[40].read_bytes()[:-9])
  (before,) = [len(list((store / "log").iterdir()))]
  assert main.main(["status", str(store)]) == 0
  assert "centroids: trained" in capsys.readouterr().out
  assert run_in(copied, [*cluster_command(), ONE]) == 0
  assert "1 damaged file was found" in capsys.readouterr().err
  assert content(store) == content(clusters_of(undisturbed))
  log = logs(store)[before + 1]  # the damage has one of its own
  assert 27 * 90 <= log["this_run"]["cluster_documents_scored"] <= 28 * 100
  assert run_in(copied, [*cluster_command(), ONE]) == 0 and run_in(copied, [*SAMPLE, ONE]) == 0


@pytest.mark.parametrize("how", ["corrupt", "cut", "foreign"])
def test_centroids_that_are_damaged_are_made_again_and_others_never_used(copied, undisturbed, capsys, how):
  """Kills: centroids that are taken because they are there."""
  store = clusters_of(copied)
  shutil.rmtree(store / "blocks")
  shutil.rmtree(store / "shards")
  (store / "summary.json").unlink()
  path = store / "centroids/centroids.safetensors"
  data = bytearray(path.read_bytes())
  if how == "corrupt":
    data[-4] ^= 1
  elif how == "cut":
    del data[-8:]
  else:
    with path.open("rb") as file:
      other = centroid_files.load(file, "c")._replace(fingerprint="0" * 32)
    with path.open("wb") as file:
      centroid_files.save(other, file)
    data = bytearray(path.read_bytes())
  path.write_bytes(data)
  if how == "foreign":
    assert run_in(copied, [*cluster_command(), ONE]) == 1
    assert "centroids.safetensors has the centroids of something else; delete" in capsys.readouterr().err
    shutil.rmtree(store / "centroids")
  assert run_in(copied, [*cluster_command(), ONE]) == 0
  assert ("1 damaged file was found" in capsys.readouterr().err) == (how != "foreign")
  assert content(store) == content(clusters_of(undisturbed))


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_a_killed_run_left_is_used_unless_it_is_damaged(place, undisturbed, capsys, monkeypatch, is_whole):
  """Kills the mutants: samples, sums or centroids of an iteration that are whole because they are there."""
  folder = place / f"left_{is_whole}"
  shutil.copytree(undisturbed / "scores/embeddings_made", folder / "scores/embeddings_made")
  move = clustering.move_centroids

  def killed(config, iteration, *arguments):
    if iteration == 2:
      raise KeyboardInterrupt
    return move(config, iteration, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(clustering, "move_centroids", killed)
    assert run_in(folder, [*cluster_command(), ONE]) != 0
  left = sorted((clusters_of(folder) / "centroids/work").iterdir())
  assert len(left) == 1 + 2 * 2 + 2  # the sample; sums and their sum, twice; centroids before and after the first
  if not is_whole:
    for number, path in enumerate(left):
      data = bytearray(path.read_bytes())
      data[-40] ^= 1
      path.write_bytes(data if number % 2 else data[:-8])
  capsys.readouterr()
  assert run_in(folder, [*cluster_command(), ONE]) == 0
  assert ("damaged files were found" in capsys.readouterr().err) == (not is_whole)
  assert content(clusters_of(folder)) == content(clusters_of(undisturbed))


@pytest.mark.parametrize(
  ("command", "told"),
  [
    (["cluster", "--num_clusters=0"], "--num_clusters=0 is not between 1 and"),
    (["cluster", "--num_clusters=11478"], "--num_clusters=11478 is more than the 11,4"),
    (["cluster", "--kmeans_sample=0"], "--kmeans_sample=0 is not between"),
    (["cluster", "--lloyd_iterations=101"], "--lloyd_iterations=101 is not between 0 and 100"),
    (["cluster", "--embeddings=scores"], "--embeddings=scores is no store of embeddings"),
    (["cluster", "--embeddings=scores/clusters_made"], "is no store of embeddings; name the folder that winnow embed"),
    (["cluster", "--clusters=scores/embeddings_made"], "is the store of the embeddings"),
    (["cluster", "--clusters=scores/prototypes_made"], "belongs to another request"),
    (["cluster", "--kmeans_seed=1"], "clusters_made belongs to another request: kmeans_seed is 0 there and 1 now"),
    (["score", "--name=clusters_made"], "--name=clusters_made is the name of another store too"),
    (["score", "--name=embeddings_made"], "--name=embeddings_made is the name of another store too"),
    (["score", "--num_clusters=7"], "clusters_made belongs to another request: num_clusters is 50 there and 7 now"),
    (
      ["score", "--scorer=density"],
      "--num_clusters is for --scorer=semdedup or prototypes, and",
    ),
    (["sample", "--sampler=random", "--name=clusters_made"], "holds scores of cluster, not of --sampler=random"),
    (["sample", "--method=ips"], "--method=ips does not fit --sampler=prototypes"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(copied, place, capsys, command, told):
  base = {"cluster": cluster_command(), "score": score_command(place), "sample": SAMPLE}[command[0]]
  before = content(copied)
  assert run_in(copied, [*base, *command[1:], ONE]) == 2
  assert told in capsys.readouterr().err
  assert content(copied) == before


def test_clusters_of_other_embeddings_are_refused(copied, place, capsys):
  """Kills: a request that does not say which embeddings, so that clusters of others are taken for its own."""
  (copied / "made").mkdir()
  for path in (place / "made").iterdir():
    np.save(copied / "made" / path.name, -np.load(path))
  other = [f"--embeddings={copied}/made/*", "--embedding_name=embeddings_other", ONE]
  given = "--clusters=scores/clusters_made"
  assert run_in(copied, [*score_command(place), *other, "--name=other", given]) == 2
  assert "scores/clusters_made belongs to another request: embeddings is" in capsys.readouterr().err
  assert run_in(copied, [*score_command(place), *other, "--name=prototypes_made", "--clusters=scores/new"]) == 2
  assert "scores/prototypes_made belongs to another request: clusters is" in capsys.readouterr().err
  assert run_in(copied, [*score_command(place), *other, "--name=other"]) == 0
  assert (copied / "scores/clusters_other/summary.json").exists()


def test_more_clusters_than_documents_are_refused_by_the_worker_too(place, capsys):
  """Where the embeddings are made by the same command, nobody knows before."""
  folder = place / "too_many"
  assert run_in(folder, [*score_command(place), "--num_clusters=90000", ONE]) == 1
  assert "--num_clusters=90000 is more than the 11,4" in capsys.readouterr().err


@pytest.mark.long
def test_curate_gives_what_score_and_sample_give(place, undisturbed):
  folder = place / "curated"
  drawing = ["--rate=0.2", "--output=out", "--num_shards=3"]
  recipe = pathlib.Path(__file__).parents[2] / "recipes/paper/prototypes.yaml"
  namespace, _ = parsing.parse(command_names.CURATE, [f"--recipe={recipe}", "--input=i", "--scores=s", *drawing])
  assert (namespace.scorer, namespace.num_clusters) == ("prototypes", 10_000)
  command = ["curate", "--scorer=prototypes", *reading(place), *KMEANS, *drawing, ONE]
  assert run_in(folder, command) == 0
  shards = sorted(path.name for path in (folder / "out").glob("*.tfrecord*"))
  assert len(shards) == 3
  for name in shards:
    assert (folder / "out" / name).read_bytes() == (undisturbed / "out" / name).read_bytes()
