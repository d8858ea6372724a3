"""Registered domains of urls, and their hashes."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.selection import domains

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

ONE_DOMAIN = {
  "münchen.de": [
    "http://xn--mnchen-3ya.de/a",
    "http://user:password@www.XN--MNCHEN-3YA.DE.:8080/a?b=http://other.org",
    "//www.MÜNCHEN.de.:80",
    "http://mu\u0308nchen。de/",
    "https://m%C3%BCnchen.de",
    "http://ｍü\u00adｎｃｈｅｎ．de",
  ],
  "пример.рф": ["http://a.b.ПРИМЕР.РФ/", "http://www.xn--e1afmkfd.xn--p1ai/"],
  "食狮.公司.cn": ["http://www.食狮.公司.cn/", "http://www.xn--85x722f.xn--55qx5d.cn"],
  "faß.de": ["http://FAẞ.de", "http://xn--fa-hia.de"],
  "οδοσ.gr": ["http://www.ΟΔΟΣ.gr", "http://xn--pxavbq.gr"],
  "i❤.ws": ["http://i❤\ufe0f.ws", "http://www.xn--i-7iq.ws/"],
  "example.com": ["http://ＷＷＷ．ｅｘａｍｐｌｅ．ｃｏｍ", "http://example%2Ecom"],
  "xn--zzzzzz.de": ["http://www.xn--zzzzzz.de", "http://XN--ZZZZZZ.de"],
}
KEPT = {
  "http://xn--a.com/": "xn--a.com",  # a control character
  "http://a%2Fb.example.com": "example.com",
  "http://℀.com": "℀.com",  # a/c in NFKC
  "http://m%FFnchen.de": "m%ffnchen.de",
  "http://xn--99999999999.de": "xn--99999999999.de",
  "http://xn--.com": "xn--.com",
  "http://[fe80::1%25eth0]/": "[fe80::1%25eth0]",
}


@pytest.mark.parametrize("name", ONE_DOMAIN)
def test_a_domain_is_one_however_its_url_spells_it(name):
  """Kills the mutants: punycode beside its Unicode form; a suffix in punycode that is not on the list; case."""
  assert domains.registered_domains(pa.array(ONE_DOMAIN[name])).to_pylist() == [name] * len(ONE_DOMAIN[name])


def test_what_is_no_international_name_stays():
  """Kills the mutants: a decoded slash that ends the host, a label that does not decode and ends the run."""
  assert domains.registered_domains(pa.array(list(KEPT))).to_pylist() == list(KEPT.values())


def test_the_registered_domain_of_a_url():
  """Kills the mutants: the last two labels; a host with its port, its user or in capitals."""
  result = domains.registered_domains(pa.array(list(CASES), pa.string())).to_pylist()
  assert dict(zip(CASES, result, strict=True)) == CASES
  chunked = pa.chunked_array([pa.array(["http://a.x.org"]), pa.array(["http://b.x.org", None])])
  assert domains.registered_domains(chunked).to_pylist() == ["x.org", "x.org", ""]


@given(
  st.lists(
    st.one_of(
      st.none(), st.text(), st.text("a.:/@[]%?#-é。xn", max_size=40), st.from_regex(r"xn--[a-z0-9-]{0,12}\.de")
    ),
    max_size=8,
  )
)
def test_whatever_stands_in_a_url_has_a_domain(urls):
  """Kills the mutants: a url that ends the run; a domain of any length."""
  result = domains.registered_domains(pa.array(urls, pa.string()))
  assert len(result) == len(urls) and not result.null_count
  assert all(len(name) <= domains.MOST_CHARACTERS and name == name.lower() for name in result.to_pylist())


def test_hashes_are_these_ones():
  """Golden: another hash would give other quotas."""
  result = domains.hash_domains(pa.array(["bbc.co.uk", "", None, "example.com", "münchen.de" * 9]))
  assert result.tolist() == [
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
  result = domains.hash_domains(column)
  assert result.dtype == np.uint64 and len(result) == len(names)
  assert len(set(result.tolist())) == len(set(names))
  assert result.tolist() == [int(domains.hash_domains(pa.array([name]))[0]) for name in names]


def test_hashes_are_spread():
  result = domains.hash_domains(pa.array([f"site-{number}.example" for number in range(100_000)]))
  assert len(np.unique(result)) == 100_000
  counts = np.bincount((result % np.uint64(97)).astype(int), minlength=97)
  assert counts.min() > 900 and counts.max() < 1170
  assert np.mean(result.astype(np.float64)) == pytest.approx(2.0**63, rel=0.01)
