"""Registered domains of urls, such as bbc.co.uk, and their hashes, which quotas are set by.

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

_IGNORED = dict.fromkeys([0xAD, 0x200B, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10)])  # invisible, so UTS 46 drops them
_CONTROLS = [*range(0x21), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_IN_NO_HOST = frozenset("/?#@:\\[]<>^|%").union(map(chr, _CONTROLS))
_MOST_HOSTS = 1 << 14  # hosts that are cached, since Python's punycode takes 100 µs
MOST_CHARACTERS = 253  # the longest name in the DNS; longer ones are cut


def registered_domains(urls: pa.Array | pa.ChunkedArray) -> pa.StringArray:
  """Returns the registered domain of each url in lower case: string [N], '' where a url is null or names no host.

  The public suffix list is the ICANN part of the one that tldextract ships: news.bbc.co.uk belongs to bbc.co.uk, and
  blogspot.com is one domain. A host without a registered domain, such as an address or localhost, stands for itself.
  Names that are not ASCII have one form, Unicode's (NFKC), however the url spells them: xn--mnchen-3ya.de is
  münchen.de.
  """
  encoded = pc.dictionary_encode(pc.fill_null(urls, ""))
  if isinstance(encoded, pa.ChunkedArray):
    encoded = encoded.combine_chunks()
  # A loop of 4 µs a url, since no library takes many urls at once.
  domains_U = pa.array([_registered_domain(url) for url in encoded.dictionary.to_pylist()], pa.string())
  return domains_U.take(encoded.indices)


def suffix_list() -> str:
  """Names the public suffix list and the form of names, for fingerprints: others may give a url another domain."""
  return f"tldextract {importlib.metadata.version('tldextract')}, names in Unicode"


def hash_domains(domains: pa.Array | pa.ChunkedArray) -> np.ndarray:
  """Returns a 64-bit hash of each domain: uint64 [N].

  Applies SplitMix64's finaliser to the UTF-8 bytes, eight at a time, and to their number. Among 10^7 domains, the
  probability that two have the same hash is below 10^-5.
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
  """Returns values of at most eight bytes as little-endian numbers: uint64 [U]."""
  zeros, separator = (pa.scalar(bytes(size), pa.large_binary()) for size in (8, 0))
  padded = pc.binary_join_element_wise(binary, zeros, separator)
  eight = pc.binary_slice(padded, 0, 8)
  return np.frombuffer(eight.buffers()[2], "<u8", len(eight)).astype(np.uint64)


@functools.cache
def _extractor() -> tldextract.TLDExtract:
  return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # fetches and caches nothing


def _registered_domain(url: str) -> str:
  parts = _extractor().extract_str(url)
  host = ".".join(filter(None, (parts.subdomain, parts.domain, parts.suffix)))
  if "%" in host or not host.isascii() or "xn--" in host.lower():
    host = _in_unicode(host)
    parts = _extractor().extract_str(host)
  return (parts.top_domain_under_public_suffix or host).lower()[:MOST_CHARACTERS]


@functools.lru_cache(_MOST_HOSTS)
def _in_unicode(host: str) -> str:
  """Returns the Unicode form of an internationalised host name, as browsers map it (UTS 46).

  Decodes percent escapes and punycode, and unifies compatible characters (NFKC). A name that would get a character that
  no host has, such as a slash, stays as it is. So does a label that is not valid punycode.
  """
  try:
    plain = urllib.parse.unquote(host, errors="strict")
  except UnicodeDecodeError:
    return host
  whole = ".".join(map(_decoded, _mapped(plain).split(".")))
  return host if _IN_NO_HOST.intersection(whole) else whole


def _mapped(name: str) -> str:
  lower = "".join(c.lower() for c in name.translate(_IGNORED))  # by character, since a sigma's depends on its position
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
