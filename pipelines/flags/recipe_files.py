"""The recipes that come with Winnow, and the search for the file that `--recipe` names."""

import difflib
import os
import pathlib

from curation.errors import WinnowError
from pipelines.files import storage

FOLDER = pathlib.Path(__file__).parents[1] / "shipped_recipes"
_SUFFIX = ".yaml"


def names() -> list[str]:
  """Lists the recipes that come with Winnow, such as `d4` and `paper/ask_llm_xl`, sorted."""
  files = FOLDER.resolve().rglob(f"*{_SUFFIX}")
  return sorted(file.relative_to(FOLDER.resolve()).with_suffix("").as_posix() for file in files)


def find(recipe: str) -> str:
  """Returns the path of a recipe: a file, local or on an object store, or else the recipe of that name in Winnow.

  Raises WinnowError where it is neither.
  """
  # A recipe may also come from a pipe.
  if not storage.is_local(recipe) or (os.path.exists(recipe) and not os.path.isdir(recipe)):
    return recipe
  known = names()
  if recipe.removesuffix(_SUFFIX) in known:
    return str(FOLDER / f"{recipe.removesuffix(_SUFFIX)}{_SUFFIX}")
  near = difflib.get_close_matches(recipe, known, 1)
  hint = f"did you mean {near[0]}? " if near else ""
  raise WinnowError(
    f"--recipe={recipe} is neither a file nor the name of a recipe that comes with Winnow: {hint}They are "
    f"{', '.join(known)}"
  )
