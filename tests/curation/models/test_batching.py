"""Bucket tables and plans: every text once, always in the same shape, with little padding."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import WinnowError
from curation.models import batching
from curation.models.vocabulary import Vocabulary

tables = st.tuples(st.integers(1, 400), st.integers(0, 2_000), st.integers(1, 20_000)).map(
  lambda args: batching.bucket_table(args[0], args[0] + args[1], args[2])
)


@given(st.integers(1, 400), st.integers(0, 2_000), st.integers(1, 20_000))
def test_tables_hold_every_length_in_at_most_16_shapes(shortest, more, batch_tokens):
  table = batching.bucket_table(shortest, shortest + more, batch_tokens)
  assert len(table.lengths) == len(table.rows) <= batching.MAX_BUCKETS == 16
  assert shortest + more <= table.lengths[-1] < shortest + more + 8
  for length, rows in zip(table.lengths, table.rows, strict=True):
    assert rows == 1 or abs(rows * length - batch_tokens) <= length / 2
  assert json.loads(json.dumps(table.to_json())) == table.to_json()


@given(tables, st.data())
def test_plans_hold_every_text_once_and_in_its_own_bucket(table, data):
  lengths_N = np.array(data.draw(st.lists(st.integers(0, table.lengths[-1]), max_size=80)), np.int32)
  batches = batching.plan(lengths_N, table)
  everyone = np.concatenate([batch.indices for batch in batches]) if batches else np.zeros(0, int)
  assert sorted(everyone) == list(range(len(lengths_N)))
  bucket_N = table.find_buckets(lengths_N)
  for batch in batches:
    bucket = table.lengths.index(batch.length)
    assert batch.rows == table.rows[bucket] and 1 <= len(batch.indices) <= batch.rows
    assert (bucket_N[batch.indices] == bucket).all()
    assert (lengths_N[batch.indices] <= batch.length).all()
    assert bucket == 0 or (lengths_N[batch.indices] > table.lengths[bucket - 1]).all()
  assert [batch.length for batch in batches] == sorted((batch.length for batch in batches), reverse=True)
  # Nothing is computed for a bucket but full batches and one that is filled up.
  for length, rows in zip(table.lengths, table.rows, strict=True):
    sizes = [len(batch.indices) for batch in batches if batch.length == length]
    assert sizes[:-1] == [rows] * (len(sizes) - 1)
  padding = batching.padding(lengths_N, batches)
  assert padding == (lengths_N.sum(), sum(batch.rows * batch.length for batch in batches))


@given(tables, st.data())
def test_a_texts_bucket_does_not_depend_on_the_others(table, data):
  """Invariant 1. Kills: buckets that are fitted to the block, or a last batch that is cut to its rows."""
  lengths = data.draw(st.lists(st.integers(1, table.lengths[-1]), min_size=1, max_size=40))
  together = {}
  for batch in batching.plan(np.array(lengths), table):
    together |= {i: (batch.rows, batch.length) for i in batch.indices}
  for i, length in enumerate(lengths):
    (alone,) = batching.plan(np.array([length]), table)
    assert (alone.rows, alone.length) == together[i]


def test_too_long_a_text_is_an_error():
  with pytest.raises(ValueError, match="does not fit"):
    batching.plan(np.array([5, 17]), batching.BucketTable((8, 16), (2, 1)))


@pytest.mark.parametrize(
  ("lengths", "rows"),
  [
    ((), ()),
    ((8,), ()),
    ((8, 8), (1, 1)),
    ((16, 8), (1, 1)),
    ((0,), (1,)),
    ((8,), (0,)),
    ((*range(1, 18),), (1,) * 17),
  ],
)
def test_bad_tables_are_refused(lengths, rows):
  with pytest.raises(ValueError):
    batching.BucketTable(lengths, rows)


def test_bad_budgets_are_named():
  with pytest.raises(WinnowError, match="--batch_tokens"):
    batching.bucket_table(10, 512, 0)


def c4_documents(shared) -> list[str]:
  with gzip.open(shared / "data" / "c4" / "c4_en_1445.jsonl.gz", "rt") as lines:
    texts = [json.loads(line)["text"] for line in lines]
  return (texts * 3)[:4_096]


@pytest.mark.parametrize("vocabulary", ["golden", "T5's size"])
@pytest.mark.parametrize(("batch_tokens", "limit"), [(1_024, 0.05), (8_192, 0.10)], ids=["CPU", "accelerator"])
def test_padding_of_a_block_of_c4(shared, vocabulary, batch_tokens, limit):
  """DESIGN.md, section 9: dummy rows counted. Real lengths, and those under a vocabulary of 32,000 pieces, which makes
  about one token of 4.3 characters and 82 of the instruction."""
  texts = c4_documents(shared)
  if vocabulary == "golden":
    words = Vocabulary((shared / "golden" / "spiece.model").read_bytes())
    lengths_N, instruction = words.encode(texts).lengths(), 134
  else:
    lengths_N, instruction = np.array([len(text) / 4.3 for text in texts]).astype(int), 82
  lengths_N = np.minimum(lengths_N + instruction, 512)
  table = batching.bucket_table(instruction + 1, 512, batch_tokens)
  useful, computed = batching.padding(lengths_N, batching.plan(lengths_N, table))
  assert 1 - useful / computed <= limit


def test_needs_no_jax():
  """The launcher plans and tokenises without an accelerator's runtime."""
  imports = "import sys, curation.models.batching, curation.models.vocabulary"
  code = f"{imports}; assert not {{'jax', 'apache_beam'}} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)
