"""The demo embedder: a tiny Sentence-T5 that was taught to find the other part of a document, and claims nothing more.

Its README.md has what it was trained on and how well it does. Nobody should select training data with it.
"""

import importlib.resources
import pathlib


def folder() -> pathlib.Path:
  """The folder of the shipped model, in sentence-transformers' layout."""
  return pathlib.Path(str(importlib.resources.files(__name__)))
