"""MinHash: signatures computed by hand, near-copies as the exact Jaccard similarity has them, graphs in any parts."""

import gzip
import itertools
import os
import pathlib
import re
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import orjson
import pyarrow as pa
import pytest
import scipy.sparse
import scipy.sparse.csgraph
import tiny_t5
from minhash_by_hand import signature_by_hand, words_of

from curation.coverage import minhash
from curation.demo import corpus as demo_corpus
from curation.errors import WinnowError

GOLDEN_TEXTS = [
  "The river, near the BRIDGE, carries bread",
  "one word",
  "",
  "Ünï\u0308code Straße don't 中文 🎈 ﬁ İ Ⴀ ẞ ⚘",
]
GOLDEN = [
  [656909738, 1633513789],
  [847305185, 2619689942],
  [721619547, 3974201376],
  [820738599, 212627020],
]


def shingles(text: str) -> set[str]:
  words = words_of(text)
  return {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(one: str, other: str) -> float:
  a, b = shingles(one), shingles(other)
  return len(a & b) / len(a | b)


def long_texts(number: int, seed: int) -> list[str]:
  return [text for text in tiny_t5.make_texts(number * 3, seed=seed, longest=300) if len(text) > 900][:number]


letters = st.text(st.sampled_from("abAB .,'é_ \n\u200b\u0301Σς🎈中ẞ⚘\U0001d54f∑☀\ufe0f"), max_size=60)


@hypothesis.given(st.lists(st.one_of(letters, st.text(max_size=60)), max_size=4))
def test_signatures_are_those_computed_by_hand(texts):
  """Kills: a rolling hash that keeps what has left the run; words cut inside a character, or at a border of blocks; a
  last word that is lost; case that counts; hash functions that are all one."""
  found_NH = minhash.signatures(pa.array(texts, pa.string()), 9)
  assert found_NH.dtype == np.uint32
  assert found_NH.tolist() == [signature_by_hand(text, 9) for text in texts]


def test_the_share_of_equal_places_has_jaccard_as_its_mean_and_the_variance_of_coins():
  """Kills: hash functions that depend on one another, though each is right: the 128 would count like a few."""
  generator, errors = np.random.default_rng(0), []
  for number in range(400):
    words = [f"{number}w{i}" for i in range(300)]
    other = words.copy()
    for place in generator.choice(300, generator.integers(2, 60), replace=False):
      other[place] = "other"
    one_H, other_H = minhash.signatures(pa.array([" ".join(words), " ".join(other)]), 128)
    exact = jaccard(" ".join(words), " ".join(other))
    errors.append((np.mean(one_H == other_H) - exact) / np.sqrt(exact * (1 - exact) / 128))
  assert abs(np.mean(errors)) < 4 / np.sqrt(400)
  assert 0.8 < np.mean(np.square(errors)) < 1.25


def test_signatures_are_the_same_everywhere():
  """Kills: Python's own hash of a word, which differs between processes; another Unicode's letters."""
  assert minhash.signatures(pa.array(GOLDEN_TEXTS), 2).tolist() == GOLDEN


def test_columns_of_all_kinds_and_cuts_give_the_same():
  """Kills: offsets of a slice that are taken for the column's; chunks in another order; a null that moves others."""
  texts = [*long_texts(5, seed=1), "", "short"]
  expected_NH = minhash.signatures(pa.array(texts), 8)
  column = pa.array(["before", *texts, None])
  for same in (
    column[1:-1],
    column.cast(pa.large_string())[1:-1],
    pa.chunked_array([texts[:3], [], texts[3:]]),
    pa.array(texts).dictionary_encode(),
  ):
    assert np.array_equal(minhash.signatures(same, 8), expected_NH)
  assert np.array_equal(minhash.signatures(column, 8)[-1], expected_NH[-2])
  assert minhash.signatures(pa.array([], pa.string()), 8).shape == (0, 8)
  assert minhash.signatures(pa.chunked_array([], pa.string()), 8).shape == (0, 8)
  assert np.array_equal(minhash.signatures(pa.array(texts), 3), expected_NH[:, :3])


@pytest.mark.parametrize("cut", [b"\xf0\x9f\x8e", b"\xe4\xb8", b"\xc3", b"\xff", b"\x80"])
def test_damaged_text_reads_nothing_of_the_next(cut):
  """Kills: a character that is read beyond its text, or beyond the last byte of all."""
  result = []
  for following in (b"", b"\x88 following", b"\xbf\xbf"):
    offsets = np.array([0, 5 + len(cut), 5 + len(cut) + len(following)], np.int64)
    data = pa.py_buffer(b"some " + cut + following)
    column = pa.Array.from_buffers(pa.large_string(), 2, [None, pa.py_buffer(offsets), data])
    result.append(minhash.signatures(column, 4)[0].tolist())
  assert result[0] == result[1] == result[2]


def test_band_keys_are_equal_where_all_rows_of_the_band_are():
  """Kills: bands that share a row, or leave one out; one key for the values of two bands, be they the same or not."""
  config = minhash.MinHashConfig(bands=3, rows=2)
  base_NH = np.full((1, 8), 7, np.uint32)
  keys_B = minhash.band_keys(base_NH, config)[0]
  assert keys_B.dtype == np.uint64 and len(set(keys_B.tolist())) == 3
  for place in range(8):
    changed_NH = base_NH.copy()
    changed_NH[0, place] = 8
    expected = [band != place // 2 for band in range(3)]
    assert (minhash.band_keys(changed_NH, config)[0] == keys_B).tolist() == expected
  small_NH = np.array(list(itertools.product(range(4), repeat=6)), np.uint32)
  small_NB = minhash.band_keys(small_NH, config)
  assert [len(np.unique(small_NB[:, band])) for band in range(3)] == [16] * 3 and len(np.unique(small_NB)) == 48


def brute_force(signatures_NH: np.ndarray, config: minhash.MinHashConfig) -> dict[int, int]:
  """The first of each document's component, by all pairs."""
  bands_NBR = signatures_NH.reshape(len(signatures_NH), config.bands, config.rows)
  meet_NN = np.any(np.all(bands_NBR[:, None] == bands_NBR[None], axis=3), axis=2)
  agree_NN = np.sum(signatures_NH[:, None] == signatures_NH[None], axis=2) >= config.similarity * config.hashes
  return firsts(*scipy.sparse.csgraph.connected_components(meet_NN & agree_NN))


def firsts(count: int, labels_N: np.ndarray) -> dict[int, int]:
  first = {label: int(np.flatnonzero(labels_N == label)[0]) for label in range(count)}
  return {n: first[label] for n, label in enumerate(labels_N.tolist()) if first[label] != n}


def as_dict(edges_E2: np.ndarray) -> dict[int, int]:
  assert edges_E2.dtype == np.int64 and edges_E2.shape[1] == 2
  assert len(set(edges_E2[:, 0].tolist())) == len(edges_E2)
  return dict(edges_E2.tolist())


@st.composite
def families(draw) -> tuple[np.ndarray, minhash.MinHashConfig]:
  """Signatures of few values, some of them the same, and how they are joined."""
  config = minhash.MinHashConfig(
    draw(st.sampled_from([0.3, 0.5, 0.75, 0.8, 1.0])), draw(st.integers(1, 5)), draw(st.integers(1, 3))
  )
  generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  size, values = draw(st.integers(0, 30)), draw(st.integers(2, 6))
  signatures_NH = generator.integers(0, values, (size, config.hashes)).astype(np.uint32)
  if size:
    signatures_NH = signatures_NH[generator.integers(0, size, size)]
    changed_NH = generator.random(signatures_NH.shape) < 0.1
    signatures_NH = np.where(changed_NH, np.uint32(9), signatures_NH)
  return signatures_NH, config


def members(signatures_NH: np.ndarray, config: minhash.MinHashConfig) -> tuple[np.ndarray, np.ndarray]:
  keys_NB = minhash.band_keys(signatures_NH, config)
  return keys_NB.ravel(), np.repeat(np.arange(len(keys_NB)), config.bands)


@hypothesis.given(families(), st.randoms(use_true_random=False))
def test_edges_of_buckets_are_the_components_of_all_pairs_that_meet_and_agree(family, random):
  """Kills: pairs that are joined because they meet, or compared with the first of a bucket alone; a threshold that is
  off by one place; a root that is not the smallest; the last bucket left out."""
  signatures_NH, config = family
  keys_M, rows_M = members(signatures_NH, config)
  order = random.sample(range(len(keys_M)), len(keys_M))
  edges_E2 = minhash.bucket_edges(keys_M[order], rows_M[order], signatures_NH, config)
  assert as_dict(edges_E2) == brute_force(signatures_NH, config)


@hypothesis.given(families(), st.integers(1, 5))
def test_workers_that_hold_some_buckets_each_find_the_same_together(family, workers):
  """Kills: components of one worker's edges that lose the others'; rows that are taken for the documents' numbers."""
  signatures_NH, config = family
  keys_M, rows_M = members(signatures_NH, config)
  numbers_N = np.arange(len(signatures_NH)) * 2**40 + 3
  parts = []
  for worker in range(workers):
    mine_M = keys_M % np.uint64(workers) == worker
    rows_N, local_M = np.unique(rows_M[mine_M], return_inverse=True)
    parts.append(numbers_N[rows_N][minhash.bucket_edges(keys_M[mine_M], local_M, signatures_NH[rows_N], config)])
  result = as_dict(minhash.components(np.concatenate(parts)))
  expected = {int(numbers_N[n]): int(numbers_N[first]) for n, first in brute_force(signatures_NH, config).items()}
  assert result == expected


edge_lists = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=40)


@hypothesis.given(edge_lists, st.integers(1, 6), st.randoms(use_true_random=False))
def test_components_of_parts_connect_to_those_of_the_whole(edges, parts, random):
  """Kills: one pass of labels along the edges, which a chain outruns; a component whose first is not its smallest."""
  left, right = zip(*edges, strict=True) if edges else ((), ())
  graph = scipy.sparse.coo_matrix((np.ones(len(edges)), (left, right)), (26, 26))
  expected = firsts(*scipy.sparse.csgraph.connected_components(graph, directed=False))
  edges_E2 = np.array(edges, np.int64).reshape(-1, 2)
  whole_C2 = minhash.components(edges_E2)
  assert as_dict(whole_C2) == expected and whole_C2.tolist() == sorted(whole_C2.tolist())
  pieces = [
    minhash.components(part) for part in np.array_split(edges_E2[random.sample(range(len(edges)), len(edges))], parts)
  ]
  while len(pieces) > 1:
    one, other = (pieces.pop(random.randrange(len(pieces))) for _ in range(2))
    pieces.append(minhash.components(np.concatenate([one, other])))
  assert np.array_equal(pieces[0], whole_C2)


def test_a_bucket_of_many_copies_takes_no_comparison_of_all_pairs():
  """Kills: 5 * 10^9 comparisons."""
  generator = np.random.default_rng(0)
  config = minhash.MinHashConfig(bands=1, rows=128)
  signatures_NH = np.tile(generator.integers(0, 2**32, 128, dtype=np.uint32), (100_000, 1))
  signatures_NH[1, :20] += 1
  signatures_NH[-1, :20] += 1
  started = time.monotonic()
  edges_E2 = minhash.bucket_edges(np.zeros(100_000, np.uint64), np.arange(100_000), signatures_NH, config)
  assert time.monotonic() - started < 20
  assert edges_E2[:, 0].tolist() == list(range(1, 100_000)) and not edges_E2[:, 1].any()


def test_in_a_bucket_of_many_a_document_is_compared_with_the_last_ones(monkeypatch):
  """Kills: a window that is off by one, or full of what came first, or of copies."""
  monkeypatch.setattr(minhash, "_MOST_COMPARED", 3)
  config = minhash.MinHashConfig(bands=1, rows=8)
  generator = np.random.default_rng(0)
  different_NH = generator.integers(0, 2**32, (6, 8), dtype=np.uint32)
  for before, result in ((2, True), (3, False), (5, False)):
    signatures_NH = np.concatenate([different_NH[: before + 1], different_NH[:1]])
    edges_E2 = minhash.bucket_edges(np.zeros(before + 2, np.uint64), np.arange(before + 2), signatures_NH, config)
    assert edges_E2.tolist() == ([[before + 1, 0]] if result else [])
  copies_NH = different_NH[[0, 1, 2, 2, 2, 2, 0]]
  edges_E2 = minhash.bucket_edges(np.zeros(7, np.uint64), np.arange(7), copies_NH, config)
  assert edges_E2.tolist() == [[3, 2], [4, 2], [5, 2], [6, 0]]


@pytest.fixture(scope="module")
def real_texts() -> list[str]:
  """The C4 sample, or what the demo reads of this machine."""
  beside = pathlib.Path(__file__).resolve().parents[4] / "shared"
  path = pathlib.Path(os.environ.get("WINNOW_SHARED", beside)) / "data/c4/c4_en_1445.jsonl.gz"
  if path.exists():
    with gzip.open(path) as file:
      return [orjson.loads(line)["text"] for line in file]
  return [document.text for document in itertools.islice(demo_corpus.read_documents(), 1_500)]


def planted(texts: list[str], seed: int) -> list[str]:
  """Copies of a quarter of the texts: some to the letter but for case, some with words changed, some cut or framed."""
  generator, copies = np.random.default_rng(seed), []
  for place in generator.choice(len(texts), len(texts) // 4, replace=False):
    words = texts[place].split()
    kind = generator.integers(4)
    if kind == 0:
      words = [word.upper() for word in words]
    elif kind == 1:
      words = [word if generator.random() > 0.02 else "changed" for word in words]
    elif kind == 2:
      words = words[: int(len(words) * generator.uniform(0.7, 1))]
    else:
      words = ["Read more on our page.", *words, "All rights reserved by its authors."]
    copies.append(" ".join(words))
  return copies


def exact_similarities(texts: list[str]) -> np.ndarray:
  """The Jaccard similarity of all pairs, float64 [N, N], with 0 of a text and itself."""
  sets = [shingles(text) for text in texts]
  places = {shingle: place for place, shingle in enumerate(dict.fromkeys(itertools.chain.from_iterable(sets)))}
  columns = [places[shingle] for some in sets for shingle in sorted(some)]
  starts = np.cumsum([0, *map(len, sets)])
  incidence = scipy.sparse.csr_matrix((np.ones(len(columns)), columns, starts), (len(sets), len(places)))
  shared_NN = (incidence @ incidence.T).toarray()
  sizes_N = np.diff(starts)
  similar_NN = shared_NN / (sizes_N[:, None] + sizes_N - shared_NN)
  np.fill_diagonal(similar_NN, 0)
  return similar_NN


def test_recall_and_precision_of_planted_near_copies_in_real_texts(real_texts):
  """Kills: a threshold on meeting alone; bands too few to meet in; words that are split otherwise than readers do."""
  texts = [*real_texts, *planted(real_texts, 1)]
  similar_NN = exact_similarities(texts)
  edges_C2 = minhash.components(
    minhash.bucket_edges(
      *members(signatures_NH := minhash.signatures(pa.array(texts), 128), config := minhash.MinHashConfig()),
      signatures_NH,
      config,
    )
  )
  label_N = np.arange(len(texts))
  label_N[edges_C2[:, 0]] = edges_C2[:, 1]
  together_NN = label_N[:, None] == label_N
  for at_least, recall in ((0.8, 0.93), (0.9, 0.995)):
    similar = np.triu(similar_NN >= at_least)
    assert similar.sum() > 150 and together_NN[similar].mean() > recall
  found_N = np.bincount(label_N[edges_C2[:, 1]], minlength=len(texts)) > 0
  found_N[edges_C2[:, 0]] = True
  assert np.mean(similar_NN[found_N].max(axis=1) >= 0.75) > 0.97
  assert similar_NN[found_N].max(axis=1).min() > 0.6
  assert np.array_equal(minhash.near_copies(texts), label_N != np.arange(len(texts)))


def test_near_copies_are_those_of_an_earlier_text():
  """Kills: a count that takes in the first of a family, or finds copies only of the text just before."""
  texts = long_texts(20, seed=4)
  near = [f"Copyright 20{i} somebody else. {text}" for i, text in enumerate(texts[:7])]
  assert all(jaccard(a, b) > 0.88 for a, b in zip(texts, near, strict=False))
  copies_N = minhash.near_copies([*texts, *near, texts[0].upper(), "short", "Short!", "other", "", " "])
  assert copies_N.tolist() == [False] * 20 + [True] * 7 + [True, False, True, False, False, True]
  assert minhash.near_copies([]).tolist() == []
  words = texts[0].split()
  half = " ".join([*words[: len(words) // 2], *reversed(words[len(words) // 2 :])])
  assert 0.2 < jaccard(texts[0], half) < 0.5
  assert minhash.near_copies([texts[0], half]).tolist() == [False, False]
  low = minhash.MinHashConfig(similarity=0.2, bands=64, rows=2)
  assert minhash.near_copies([texts[0], half], low).tolist() == [False, True]


def test_the_probability_of_meeting_is_as_documented():
  config = minhash.MinHashConfig()
  probabilities = [round(config.candidate_probability(similarity), 2) for similarity in (0.5, 0.67, 0.8)]
  assert probabilities == [float(p) for p in re.findall(r"0\.06|0\.48|0\.95", str(minhash.MinHashConfig.__doc__))]
  assert f"{config.candidate_probability(0.9):.4f}" == "0.9999"


@pytest.mark.parametrize(
  "wrong",
  [{"similarity": 0}, {"similarity": 1.1}, {"similarity": float("nan")}, {"bands": 0}, {"rows": 2.0}, {"bands": 999}],
)
def test_wrong_configurations_are_refused(wrong):
  with pytest.raises(WinnowError, match=r"give 0\.8|whole number of at least 1|take fewer"):
    minhash.MinHashConfig(**wrong)
