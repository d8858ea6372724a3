"""The registered domain of a url, such as bbc.co.uk, and a hash of it: what quotas go by.

Shapes: N urls or domains, U different domains.
"""

import functools
import importlib.metadata
import unicodedata
import urllib.parse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tldextract

from curation.selection import hashing

_IGNORED = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10)])  # by UTS 46: nobody sees them
_CONTROLS = [*range(0x21), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_IN_NO_HOST = frozenset("/?#@:\\[]<>^|%").union(map(chr, _CONTROLS))
_MOST_HOSTS = 1 << 14  # held at a time, since Python's punycode takes 100 µs
MOST_CHARACTERS = 253  # that a name in the DNS has; longer ones are cut


def registered_domains(urls: pa.Array | pa.ChunkedArray) -> pa.StringArray:
  """The registered domain of each url, lower case: string [N], '' where a url is null or names no host.

  By the public suffix list as tldextract ships it, ICANN's part alone: news.bbc.co.uk is bbc.co.uk, and a blogspot.com
  is one domain. A host without a registered domain, such as an address or localhost, stands for itself. Names that are
  not ASCII have one form, Unicode's (NFKC), however the url spells them: xn--mnchen-3ya.de is münchen.de.
  """
  encoded = pc.dictionary_encode(pc.fill_null(urls, ""))
  if isinstance(encoded, pa.ChunkedArray):
    encoded = encoded.combine_chunks()
  # A loop, since no library takes many urls at once: 4 µs each.
  of_each = pa.array([_registered_domain(url) for url in encoded.dictionary.to_pylist()], pa.string())
  return of_each.take(encoded.indices)


def suffix_list() -> str:
  """Names the public suffix list and the form of names, since another one may find another domain in a url."""
  return f"tldextract {importlib.metadata.version('tldextract')}, names in Unicode"


def hash_domains(domains: pa.Array | pa.ChunkedArray) -> np.ndarray:
  """A 64-bit hash of each domain, uint64 [N]; among 10^7 domains two have the same with a probability below 10^-5.

  SplitMix64's finaliser over the UTF-8 bytes, eight at a time, and their number.
  """
  encoded = pc.dictionary_encode(pc.fill_null(domains, ""))
  if isinstance(encoded, pa.ChunkedArray):
    encoded = encoded.combine_chunks()
  different = encoded.dictionary.cast(pa.large_binary())
  length_U = pc.binary_length(different).to_numpy(zero_copy_only=False).astype(np.uint64)
  hash_U = hashing.mix(length_U)
  width = int(length_U.max(initial=0))
  for start in range(0, width, 8):
    longer_U = np.flatnonzero(length_U > start)
    words = pc.binary_slice(different.take(pa.array(longer_U)), start, start + 8)
    hash_U[longer_U] = hashing.mix(hash_U[longer_U] ^ _words(words))
  return hash_U[encoded.indices.to_numpy()]


def _words(binary: pa.LargeBinaryArray) -> np.ndarray:
  """Values of at most eight bytes as little-endian numbers, uint64 [U]."""
  zeros, nothing = (pa.scalar(bytes(size), pa.large_binary()) for size in (8, 0))
  padded = pc.binary_join_element_wise(binary, zeros, nothing)
  eight = pc.binary_slice(padded, 0, 8)
  return np.frombuffer(eight.buffers()[2], "<u8", len(eight)).astype(np.uint64)


@functools.cache
def _extractor() -> tldextract.TLDExtract:
  return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # nothing is fetched, nothing is kept


def _registered_domain(url: str) -> str:
  found = _extractor().extract_str(url)
  host = ".".join(filter(None, (found.subdomain, found.domain, found.suffix)))
  if "%" in host or not host.isascii() or "xn--" in host.lower():
    host = _in_unicode(host)
    found = _extractor().extract_str(host)
  return (found.top_domain_under_public_suffix or host).lower()[:MOST_CHARACTERS]


@functools.lru_cache(_MOST_HOSTS)
def _in_unicode(host: str) -> str:
  """The one form of an internationalised host name, as browsers map it (UTS 46), in Unicode.

  Percent escapes and punycode are decoded, and compatible characters are made one (NFKC). Where that would give a
  character that no host has, such as a slash, the name stays as it is; so does a label that is not good punycode.
  """
  try:
    plain = urllib.parse.unquote(host, errors="strict")
  except UnicodeDecodeError:
    return host
  whole = ".".join(map(_decoded, _mapped(plain).split(".")))
  return host if _IN_NO_HOST.intersection(whole) else whole


def _mapped(name: str) -> str:
  lower = "".join(c.lower() for c in name.translate(_IGNORED))  # of the whole, a sigma's would follow from its place
  return unicodedata.normalize("NFKC", lower)


def _decoded(label: str) -> str:
  if not (label.startswith("xn--") and label.isascii()):
    return label
  try:
    decoded = label[4:].encode().decode("punycode")
    is_sound = (
      not decoded.isascii() and decoded == _mapped(decoded) and decoded.encode("punycode") == label[4:].encode()
    )
  except UnicodeError:
    return label
  return decoded if is_sound else label
