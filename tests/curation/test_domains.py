"""Registered domains of urls, and their hashes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import domains

CASES = {
  "https://news.bbc.co.uk/1/hi/uk/default.stm": "bbc.co.uk",
  "http://BBC.co.uk": "bbc.co.uk",
  "http://user:password@www.example.com:8080/a?b=http://other.org#c": "example.com",
  "//a.b.c.example.org./x": "example.org",
  "http://one.blogspot.com/": "blogspot.com",
  "http://two.github.io/": "github.io",
  "http://192.168.0.1/x": "192.168.0.1",
  "http://[2001:db8::1]/x": "[2001:db8::1]",
  "http://localhost:80/x": "localhost",
  "http://co.uk/": "co.uk",
  "http://www.city.kawasaki.jp/": "city.kawasaki.jp",
  "http://a.b.ck/": "a.b.ck",
  "": "",
  None: "",
}


def test_the_registered_domain_of_a_url():
  """Kills the mutants: the last two labels; a host with its port, its user or in capitals."""
  found = domains.registered_domains(pa.array(list(CASES), pa.string())).to_pylist()
  assert dict(zip(CASES, found, strict=True)) == CASES
  chunked = pa.chunked_array([pa.array(["http://a.x.org"]), pa.array(["http://b.x.org", None])])
  assert domains.registered_domains(chunked).to_pylist() == ["x.org", "x.org", ""]


@given(st.lists(st.one_of(st.none(), st.text(), st.text("a.:/@[]%?#-é。", max_size=40)), max_size=8))
def test_whatever_stands_in_a_url_has_a_domain(urls):
  """Kills the mutants: a url that ends the run; a domain of any length."""
  found = domains.registered_domains(pa.array(urls, pa.string()))
  assert len(found) == len(urls) and not found.null_count
  assert all(len(name) <= domains.MOST_CHARACTERS and name == name.lower() for name in found.to_pylist())


def test_hashes_are_these_ones():
  """Golden: another hash would give other quotas."""
  found = domains.hash_domains(pa.array(["bbc.co.uk", "", None, "example.com", "münchen.de" * 9]))
  assert found.tolist() == [
    6454537310735873446,
    16294208416658607535,
    16294208416658607535,
    14765614768615549611,
    15425327323753838040,
  ]


@given(st.lists(st.text("ab\0é", max_size=20), max_size=30), st.integers(0, 5))
def test_equal_domains_alone_have_equal_hashes(names, start):
  """Kills the mutants: zeros at the end that do not count; the words of a sliced array."""
  column = pa.array([*["x"] * start, *names], pa.string()).slice(start)
  found = domains.hash_domains(column)
  assert found.dtype == np.uint64 and len(found) == len(names)
  assert len(set(found.tolist())) == len(set(names))
  assert found.tolist() == [int(domains.hash_domains(pa.array([name]))[0]) for name in names]


def test_hashes_are_spread():
  found = domains.hash_domains(pa.array([f"site-{number}.example" for number in range(100_000)]))
  assert len(np.unique(found)) == 100_000
  counts = np.bincount((found % np.uint64(97)).astype(int), minlength=97)
  assert counts.min() > 900 and counts.max() < 1170
  assert np.mean(found.astype(np.float64)) == pytest.approx(2.0**63, rel=0.01)
