"""The versions of Winnow and of the packages on which its results depend."""

import importlib.metadata

DISTRIBUTION = "winnow-curation"
VERSIONED = ("apache-beam", "jax", "numpy", "pyarrow", "scipy", "sentencepiece", "tensorflow-datasets")


def version(distribution: str) -> str:
  """Returns the version of an installed package, by the name that pip has for it."""
  try:
    return importlib.metadata.version(distribution)
  except importlib.metadata.PackageNotFoundError:
    return "not installed as a package"


def versions() -> dict[str, str]:
  """Returns the versions of Winnow and of the packages that could change an output."""
  return {name: version(name) for name in (DISTRIBUTION, *VERSIONED)}
