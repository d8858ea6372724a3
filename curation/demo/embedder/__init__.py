"""The demo embedder: a tiny Sentence-T5, trained to match the two parts of a document and for nothing more.

Its README.md says what it was trained on and how well it does. Nobody should select training data with it.
"""

import importlib.resources
import pathlib


def folder() -> pathlib.Path:
  """Returns the folder of the shipped model, in sentence-transformers' layout."""
  return pathlib.Path(str(importlib.resources.files(__name__)))
