"""The demo rater: a tiny T5 1.1, trained to tell text from damaged text and for nothing more.

Its README.md says what it was trained on and how well it does. Nobody should select training data with it.
"""

import importlib.resources
import pathlib


def folder() -> pathlib.Path:
  """Returns the folder of the shipped checkpoint, in Hugging Face's layout."""
  return pathlib.Path(str(importlib.resources.files(__name__)))
