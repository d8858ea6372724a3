"""Giant clusters through the commands: split by a second clustering, and compared within its pieces alone.

Twelve shards in all formats, dozens of blocks, bad records in the middle, with embeddings made elsewhere: half of them
around one centre, a fifth around another, both above the limit. A fifth of all are one embedding again and again, which
no clustering parts, so that one piece stays above the limit.
"""

import dataclasses
import json
import pathlib
import shutil

import corpora
import dividing
import numpy as np
import pytest
import safetensors.numpy
from running import content, embedded, logs, run_in, shards_of

from curation.coverage import centroid_files, giant_clusters, kmeans
from curation.selection import hashing
from pipelines.scorers.semdedup import comparing, layout, splitting
from pipelines.scorers.semdedup.preparation import ComparisonPreparation

BIG_ROWS, SMALL_ROWS, DIMENSIONS, CLUSTERS, LIMIT = 3_000, 300, 12, 9, 600_000
MOST_DOCUMENTS = 1_095
KMEANS = [f"--num_clusters={CLUSTERS}", "--kmeans_sample=60", "--kmeans_iterations=6"]
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"
SAMPLE = ["sample", "--scores=scores", "--sampler=semdedup", "--rate=0.5", "--output=out", "--num_shards=3"]


def make_embeddings(shard: str, rows: int) -> np.ndarray:
  """float32 [rows, D], not of length 1."""
  generator = np.random.default_rng(list(shard.encode()))
  centres = np.random.default_rng(1).standard_normal((8, DIMENSIONS))
  of_N = generator.choice(8, rows, p=[0.5, 0.2, *[0.05] * 6])
  points_ND = centres[of_N] + np.where(of_N < 2, 0.1, 0.3)[:, None] * generator.standard_normal((rows, DIMENSIONS))
  points_ND[(of_N == 0) & (generator.random(rows) < 0.4)] = centres[0] * 1.01 + 0.02
  return (points_ND * generator.choice([0.5, 2, 8], (rows, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("splitting")
  corpora.write_with_embeddings(folder, make_embeddings, big_rows=BIG_ROWS, small_rows=SMALL_ROWS, bad_row=100)
  return folder


def score_command(place: pathlib.Path, *more: str, limit: int = LIMIT) -> list[str]:
  reading = [f"--input={place}/corpus/*", f"--embeddings={place}/made/*", "--scores=scores", "--block_rows=100"]
  return ["score", "--scorer=semdedup", *reading, *KMEANS, f"--max_cluster_pairs={limit}", *more]


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  """Embeddings, clusters, scores and a sample, in one process."""
  folder = place / "undisturbed"
  for command in (score_command(place), SAMPLE):
    assert run_in(folder, [*command, ONE]) == 0
  return folder


@pytest.fixture
def clustered(tmp_path, undisturbed) -> pathlib.Path:
  """The same folder before anything was split."""
  for name in ("embeddings_made", "clusters_made"):
    shutil.copytree(undisturbed / "scores" / name, tmp_path / "scores" / name)
  return tmp_path


def store_of(folder: pathlib.Path) -> pathlib.Path:
  return folder / "scores/semdedup_made"


def killed_before_moving(place: pathlib.Path, folder: pathlib.Path, monkeypatch) -> None:
  """Runs the command up to where all is split."""

  def killed(config, numbered):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(comparing, "move_group", killed)
    assert run_in(folder, [*score_command(place), ONE]) != 0
  assert not list((store_of(folder) / "compared").glob("*/moved/*"))


@dataclasses.dataclass(frozen=True)
class Reference:
  """Clusters, pieces and scores of all documents in the order of the store of clusters, in NumPy alone."""

  clusters_N: np.ndarray
  pieces_N: np.ndarray
  scores_N: np.ndarray

  @classmethod
  def for_folder(cls, folder: pathlib.Path, centroids: dict[int, np.ndarray]) -> "Reference":
    """`centroids`: of the pieces, by cluster."""
    table, points = shards_of(folder / "scores/clusters_made"), embedded(folder)
    documents = list(zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True))
    points_ND = np.array([points[document] for document in documents]).astype(np.float64)
    points_ND /= np.linalg.norm(points_ND, axis=1, keepdims=True)
    clusters_N, cosines_N = table["cluster"].to_numpy(), table["cosine"].to_numpy()
    hashes_N = [int(hashing.hash_documents("semdedup", 0, shard, [row])[0]) for shard, row in documents]
    pieces_N = np.zeros(len(documents), int)
    for cluster, centroids_PD in centroids.items():
      of_cluster = clusters_N == cluster
      pieces_N[of_cluster] = np.argmax(points_ND[of_cluster] @ centroids_PD.astype(np.float64).T, axis=1)
    scores_N = np.full(len(documents), np.nan)
    for cluster, piece in np.unique(np.stack([clusters_N, pieces_N]), axis=1).T:
      order = np.flatnonzero((clusters_N == cluster) & (pieces_N == piece))
      order = np.array(sorted(order, key=lambda i: (-float(cosines_N[i]), hashes_N[i])), int)
      cosines_NN = np.where(np.tri(len(order), k=-1, dtype=bool), points_ND[order] @ points_ND[order].T, -1)
      scores_N[order] = -np.clip(cosines_NN.max(axis=1), -1, 1)
    return cls(clusters_N, pieces_N, scores_N)


def recorded_centroids(folder: pathlib.Path) -> dict[int, np.ndarray]:
  files = (store_of(folder) / "compared").glob("*/subcentroids/*")
  return {int(path.name.partition(".")[0]): safetensors.numpy.load_file(path)["centroids"] for path in files}


def test_scores_are_those_of_brute_force_within_pieces(place, clustered, undisturbed, monkeypatch, capsys):
  """Kills the mutants: ranks by closeness to a piece's own centroid; pairs of different pieces; a giant's documents by
  another's centroids, or in pieces of the next cluster; a split that nobody is told of."""
  killed_before_moving(place, clustered, monkeypatch)
  centroids = recorded_centroids(clustered)
  reference = Reference.for_folder(clustered, centroids)
  sizes = np.bincount(reference.clusters_N).tolist()
  giants = [cluster for cluster, size in enumerate(sizes) if size * (size - 1) // 2 > LIMIT]
  assert sorted(centroids) == giants and len(giants) == 2 and max(sizes) > 0.45 * sum(sizes)
  assert [len(centroids[giant]) for giant in giants] == [-(-4 * sizes[giant] // MOST_DOCUMENTS) for giant in giants]
  capsys.readouterr()
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  np.testing.assert_allclose(shards_of(store_of(clustered))["score"].to_numpy(), reference.scores_N, atol=2e-6)
  assert not (store_of(clustered) / "compared").exists()
  assert content(store_of(clustered)) == content(store_of(undisturbed))

  told = json.loads((store_of(clustered) / "split.json").read_text())
  by_piece = [np.bincount(reference.pieces_N[reference.clusters_N == giant]).tolist() for giant in giants]
  assert [(each["cluster"], each["pieces"]) for each in told["clusters"]] == list(zip(giants, by_piece, strict=True))
  figures, pieces = told["figures"], [size for sizes in by_piece for size in sizes]
  assert figures["pieces_above"] == sum(size > MOST_DOCUMENTS for size in pieces) >= 1
  assert figures["pairs_compared"] == sum(size * (size - 1) // 2 for size in pieces)
  every = sum(sizes[giant] * (sizes[giant] - 1) // 2 for giant in giants)
  assert figures["pairs_left_out"] == every - figures["pairs_compared"] > 0.5 * every
  line = f"2 clusters of {figures['documents']:,} documents have more than 600,000 pairs each, and were split into "
  shown = " ".join(capsys.readouterr().out.split())  # without the breaks of its lines
  assert f"{line}{len(pieces)} pieces, {figures['pieces_above']} of which still have more: " in shown
  manifest = json.loads((undisturbed / "out/manifest.json").read_text())
  assert manifest["scores"]["engine"]["split"] == figures | {"centroids": told["centroids"]}
  assert manifest["scores"]["request"]["max_cluster_pairs"] == LIMIT


def test_a_limit_that_no_cluster_reaches_changes_nothing(place, clustered, undisturbed, monkeypatch):
  """Kills: what is split whatever the limit; an engine that tells of a split that is none."""
  monkeypatch.setattr(giant_clusters.Pieces, "sample", None)
  monkeypatch.setattr(giant_clusters.Pieces, "assign", None)
  largest = int(np.bincount(shards_of(clustered / "scores/clusters_made")["cluster"].to_numpy()).max())
  for name, limit in (("exactly", largest * (largest - 1) // 2), ("default", 10**11)):
    assert run_in(clustered, [*score_command(place, f"--name={name}", limit=limit), ONE]) == 0
    store = clustered / "scores" / name
    scores_N = shards_of(store)["score"].to_numpy()
    np.testing.assert_allclose(scores_N, Reference.for_folder(clustered, {}).scores_N, atol=2e-6)
    assert not (store / "split.json").exists() and "split" not in json.loads((store / "engine.json").read_text())
  split_N = shards_of(store_of(undisturbed))["score"].to_numpy()
  assert (scores_N <= split_N + 2e-6).all() and (scores_N < split_N - 1e-4).sum() > 100


@pytest.mark.long
@pytest.mark.local_runner
def test_two_processes_give_the_same(place, clustered, undisturbed):
  """Kills: anything that depends on which worker did it."""
  assert run_in(clustered, [*score_command(place), TWO]) == 0
  assert content(store_of(clustered)) == content(store_of(undisturbed))
  (log,) = logs(store_of(clustered))
  scored = log["counters"]["documents_scored"]
  told = log["documents_by_process"]
  stages = "sampling giant clusters", "assigning pieces of clusters", comparing.MOVING, comparing.COMPARING
  assert [sum(told[stage].values()) for stage in stages] == [scored] * 4
  assert len(told["scoring (semdedup)"]) == 2


@pytest.fixture
def small_units():
  """Dozens of groups, more than are merged at once, and pieces of one giant in several parts."""
  with dividing.divided(ComparisonPreparation, group=100, part_documents=500, share_pairs=2, span_tiles=2):
    yield


def test_any_division_of_the_work_gives_the_same_bytes(place, clustered, undisturbed, small_units, monkeypatch):
  """Kills the mutants: a sample in the order of groups; pieces of one group that are taken for another's; a giant that
  is one worker's to put in order."""
  gathered, gather = clustered / "gathered", comparing.gather_part
  gathered.mkdir()

  def counted(config, part):
    work = layout.Work.for_config(config)
    giant = work.splitting.pieces.cluster_pieces(int(work.splitting.pieces.sizes_K.argmax()))
    first, stop = work.tiles.part_clusters[part : part + 2].tolist()
    (gathered / f"{part}-{len(work.groups())}-{first < giant.stop and giant.start < stop}").touch()
    return gather(config, part)

  monkeypatch.setattr(comparing, "gather_part", counted)
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert content(store_of(clustered)) == content(store_of(undisturbed))
  parts = [path.name.split("-") for path in gathered.iterdir()]
  assert {int(groups) > 32 for _, groups, _ in parts} == {True}
  assert sum(of_giant == "True" for _, _, of_giant in parts) >= 3


def test_other_blocks_give_the_same_scores(place, undisturbed):
  """Invariant 1. Kills: pieces that depend on how documents were grouped."""
  folder = place / "other_blocks"
  assert run_in(folder, [*score_command(place, "--block_rows=1001"), ONE]) == 0
  assert shards_of(store_of(folder)) == shards_of(store_of(undisturbed))


@pytest.mark.parametrize("is_whole", [pytest.param(True, marks=pytest.mark.long), False])
def test_what_a_killed_run_left_is_used_unless_it_is_damaged(
  place, clustered, undisturbed, small_units, capsys, monkeypatch, is_whole
):
  """Kills the mutants: samples, centroids, pieces or a split that are taken because they are there; what is there and
  made again all the same."""
  killed_before_moving(place, clustered, monkeypatch)
  left = [path for path in (store_of(clustered) / "compared").rglob("*") if path.is_file()]
  assert {path.parent.name for path in left} == {"sampled", "subcentroids", "pieces"}
  if is_whole:
    monkeypatch.setattr(kmeans, "train", None)
    monkeypatch.setattr(giant_clusters.Pieces, "sample", None)
    monkeypatch.setattr(giant_clusters.Pieces, "assign", None)
  else:
    for number, path in enumerate((*left, store_of(clustered) / "split.json")):
      data = bytearray(path.read_bytes())
      data[-9] ^= 1
      path.write_bytes(data if number % 2 else data[:-8])
  capsys.readouterr()
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert ("damaged files were found" in capsys.readouterr().err) == (not is_whole)
  assert content(store_of(clustered)) == content(store_of(undisturbed))


def test_other_centroids_make_another_split(place, clustered, monkeypatch):
  """As where another machine makes a damaged file again, and its last bits differ.

  Kills: pieces or sizes of earlier centroids that are taken because they are there.
  """
  killed_before_moving(place, clustered, monkeypatch)
  before = json.loads((store_of(clustered) / "split.json").read_text())
  path = sorted((store_of(clustered) / "compared").glob("*/subcentroids/*"))[0]
  with path.open("rb") as file:
    made = centroid_files.load(file, str(path))
  turned_PD = made.centroids_KD + 0.03 * np.random.default_rng(5).standard_normal(made.centroids_KD.shape)
  turned_PD = (turned_PD / np.linalg.norm(turned_PD, axis=1, keepdims=True)).astype(np.float32)
  with path.open("wb") as file:
    centroid_files.save(made._replace(centroids_KD=turned_PD), file)
  reference = Reference.for_folder(clustered, recorded_centroids(clustered))
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  np.testing.assert_allclose(shards_of(store_of(clustered))["score"].to_numpy(), reference.scores_N, atol=2e-6)
  after = json.loads((store_of(clustered) / "split.json").read_text())
  assert after["centroids"] != before["centroids"] and after["clusters"] != before["clusters"]


def test_a_shard_of_a_complete_store_is_made_again(place, undisturbed, tmp_path, monkeypatch, capsys):
  """Kills: a split that cannot be found again; scores of one shard by another split than those of the rest."""
  shutil.copytree(undisturbed / "scores", tmp_path / "scores")
  removed = store_of(tmp_path) / "shards/a.jsonl.parquet"
  removed.unlink()
  train = kmeans.train

  def otherwise(sample_ND, config):
    found = train(sample_ND, config)
    return found._replace(centroids_KD=found.centroids_KD[::-1])

  with monkeypatch.context() as patch:
    patch.setattr(splitting.kmeans, "train", otherwise)
    assert run_in(tmp_path, [*score_command(place), ONE]) == 1
  assert "has scores by another split of giant clusters than is found here: go on where" in capsys.readouterr().err
  assert not removed.exists()
  assert run_in(tmp_path, [*score_command(place), ONE]) == 0
  assert content(store_of(tmp_path)) == content(store_of(undisturbed))


def test_a_split_of_something_else_is_not_taken(place, clustered, undisturbed):
  """Kills: a file that is taken because it is sealed, whatever it is of."""
  other = clustered / "scores/other"
  assert run_in(clustered, [*score_command(place, "--name=other", limit=700_000), ONE]) == 0
  store_of(clustered).mkdir()
  shutil.copy(other / "split.json", store_of(clustered))
  assert run_in(clustered, [*score_command(place), ONE]) == 0
  assert content(store_of(clustered)) == content(store_of(undisturbed))
  assert run_in(clustered, [*score_command(place, "--overwrite", limit=10**11), ONE]) == 0
  assert not (store_of(clustered) / "split.json").exists()


@pytest.mark.parametrize(
  ("more", "told"),
  [
    (["--max_cluster_pairs=523775"], "--max_cluster_pairs=523775 is not between 523,776, the pairs of 1,024 documents"),
    (["--max_cluster_pairs=-1"], "--max_cluster_pairs=-1 is not between"),
    (["--max_cluster_pairs=1e9"], "argument --max_cluster_pairs: invalid int value: '1e9'"),
    (["--max_cluster_pairs=600001"], "belongs to another request: max_cluster_pairs is 600000 there and 600001 now"),
    (["--scorer=prototypes"], "--max_cluster_pairs is for --scorer=semdedup, and this is --scorer=prototypes"),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(undisturbed, place, capsys, more, told):
  before = content(undisturbed)
  assert run_in(undisturbed, [*score_command(place), *more, ONE]) == 2
  assert told in capsys.readouterr().err
  assert content(undisturbed) == before
