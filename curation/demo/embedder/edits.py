"""Light edits of a text for the demo embedder, such as make one document a near-copy of another.

All are pure functions of (text, generator).
"""

import re

import numpy as np

_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_HOLDER = re.compile(r"\b[Cc]opyright(?:\s+(?:\([cC]\)|©))?(?:\s+[\d,–-]+)*((?:\s+[A-Z][\w.&'-]*,?){1,6})")
_NAMES = """Ada|Berta|Carla|Dmitri|Elif|Femi|Grace|Hiro|Ines|Jonas|Kofi|Lena|Miguel|Nora|Olga|Pavel|Qing|Rosa|Sven|Tariq
|Uma|Vera|Walter|Ximena|Yusuf|Zoe|Adams|Baker|Chen|Diaz|Evans|Fischer|Garcia|Huang|Ito|Jensen|Kowalski|Lopez
|Meyer|Novak|Okafor|Petrov|Quinn|Rossi|Smith|Tanaka|Ueda|Vargas|Weber|Xu|Young|Zhang""".replace("\n", "").split("|")
_BODIES = (
  "Inc.",
  "Foundation",
  "Contributors",
  "Authors",
  "Developers",
  "Labs",
  "Ltd.",
  "Team",
  "Project",
  "University",
)
_MOST = 0.08  # the largest share of the words that is dropped or replaced


def edit(text: str, generator: np.random.Generator) -> str:
  """Changes the copyright holder and all years, and drops or replaces up to one word in twelve, at least one."""
  return edit_words(edit_notice(text, generator), generator)


def edit_notice(text: str, generator: np.random.Generator) -> str:
  """Changes all years and the holder after the word copyright; a text without a holder may get a notice."""
  shift = int(generator.integers(1, 20))
  text = _YEAR.sub(lambda year: str(1990 + (int(year[0]) - 1990 + shift) % 37), text)
  holder = _holder(generator)
  text, replaced = _HOLDER.subn(lambda notice: notice[0].removesuffix(notice[1]) + " " + holder, text)
  if not replaced and generator.random() < 0.2:
    text = f"Copyright (c) {int(generator.integers(1990, 2027))} {holder} {text}"
  return text


def edit_words(text: str, generator: np.random.Generator) -> str:
  """Drops some words and replaces others by words of the text; separates words by single spaces."""
  words = text.split()
  number = max(1, int(len(words) * _MOST * generator.random()))
  for place in generator.permutation(len(words))[:number]:
    words[place] = "" if generator.random() < 0.5 else words[int(generator.integers(len(words)))]
  return " ".join(word for word in words if word)


def _holder(generator: np.random.Generator) -> str:
  """Makes up a copyright holder."""
  names = [_NAMES[i] for i in generator.integers(len(_NAMES), size=int(generator.integers(1, 3)))]
  if generator.random() < 0.6:
    names.append(_BODIES[int(generator.integers(len(_BODIES)))])
  return " ".join(names)
