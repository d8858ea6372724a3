"""Ways to damage a text for the demo rater, like the useless pages that a crawl brings.

Every kind is a pure function of (text, generator). The result has about as many words as the text, so that its length
reveals nothing. It differs from any text of at least `MIN_WORDS` different words.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np

Damage = Callable[[str, np.random.Generator], str]

MIN_WORDS = 12

_MENU = """Home|About|About us|Contact|Contact us|Login|Log in|Sign up|Register|My account|Cart|Checkout|Search|Menu|FAQ
|Help|Support|Blog|News|Events|Careers|Jobs|Press|Privacy policy|Terms of use|Terms and conditions|Cookie policy|Sitemap
|Accessibility|Read more|Learn more|Click here|Show more|View all|Next|Previous|Back to top|Skip to content|Share
|Share on Facebook|Tweet|Follow us on Twitter|Subscribe|Subscribe to our newsletter|Download|Downloads|Print this page
|Add to cart|Add to wishlist|Categories|Archives|Tags|Recent posts|Related posts|Leave a comment|0 comments|Reply
|Powered by WordPress|All rights reserved|Copyright © 2019|© 2021|Enable JavaScript to continue|Loading...|English
|Accept cookies|This site uses cookies|Your email address|Enter your email|Submit|Cancel|OK|Close|Page not found
|Sort by price|Free shipping|Buy now|In stock|Forgot your password?|Documentation|Index|Module index|Edit on GitHub
|Table of contents|Search docs|Release notes|Star|Fork|Issues|Pull requests|Sponsor""".replace("\n", "").split("|")
_MENU_JOINTS = ("\n", " | ", " > ", " » ", " · ", " ", " / ", " * ")
_KEYWORD_JOINTS = (", ", " ", " | ", "; ", " - ", ",")
_QUESTIONS = """What is|What are|How do I|How can I|How to|Why does|Why is|Where can I find|When should I use|Who knows
|Does anyone know|Can somebody explain|Is there a way to get|Is it possible to use|Which is better,|What happens with
|Should I use|Has anyone tried|Do you have|Any ideas about|What is the difference between""".replace("\n", "").split(
  "|"
)
_PLEAS = ("Thanks!", "Please help.", "Any help?", "Thanks in advance.", "Anyone?", "Same question here.", "Bump.")
_FRAGMENT_JOINTS = ("", " ", "... ", " ")


def shuffle_words(text: str, generator: np.random.Generator) -> str:
  """Shuffles the words within windows of 6 words up to the whole text."""
  words = text.split()
  window = _log_uniform(6, max(6, len(words)), generator)
  places_N = np.arange(len(words)) // window
  order = np.lexsort((generator.random(len(words)), places_N))
  shuffled = [words[i] for i in order]
  return " ".join(shuffled if shuffled != words else words[1:] + words[:1])


def repeat(text: str, generator: np.random.Generator) -> str:
  """Repeats one short part of the text, at least three times."""
  words = text.split()
  span = _log_uniform(1, max(1, min(40, len(words) // 3)), generator)
  start = int(generator.integers(len(words) - span + 1)) if words else 0
  part = words[start : start + span]
  return " ".join(part * max(3, round(len(words) / max(1, span))))


def list_keywords(text: str, generator: np.random.Generator) -> str:
  """Makes a list of the text's longer words in no order, some of them many times."""
  words = text.split()
  stripped = (word.strip(".,;:!?()[]{}<>\"'`*_=#-|") for word in words)
  keywords = list(dict.fromkeys(word for word in stripped if len(word) > 3)) or words
  if generator.random() < 0.5:
    keywords = [word.lower() for word in keywords]
  if not keywords:
    return "keywords"
  kept = generator.permutation(len(keywords))[: _log_uniform(min(3, len(keywords)), len(keywords), generator)]
  size = max(1, min(3, _log_uniform(1, 4, generator)))  # words per keyword
  joint = _choose(_KEYWORD_JOINTS, generator)
  chosen = [keywords[i] for i in generator.choice(kept, max(4, len(words)))]
  return joint.join(" ".join(chosen[i : i + size]) for i in range(0, len(chosen), size))


def make_menu(text: str, generator: np.random.Generator) -> str:
  """Makes the frame of a web page: links and legal notices, mixed with titles from the text."""
  words = text.split()
  joint = _choose(_MENU_JOINTS, generator)
  share = generator.uniform(0, 0.7)
  items: list[str] = []
  size = 0
  while size < max(4, len(words)):
    title = words and generator.random() < share
    item = _part(words, 1, 4, generator).title() if title else _choose(_MENU, generator)
    items.append(item)
    size += len(item.split())
  return joint.join(items)


def ask(text: str, generator: np.random.Generator) -> str:
  """Asks about parts of the text and answers nothing."""
  words = text.split()
  parts: list[str] = []
  size = 0
  while size < max(4, len(words)):
    part = f"{_choose(_QUESTIONS, generator)} {_part(words, 1, 8, generator).strip('.,;:!?')}?"
    if generator.random() < 0.15:
      part += " " + _choose(_PLEAS, generator)
    parts.append(part)
    size += len(part.split())
  return " ".join(parts)


def glue_fragments(text: str, generator: np.random.Generator) -> str:
  """Joins fragments of 8 to 60 characters, most of them cut within a word, in random order; a fifth is lost."""
  text = " ".join(text.split())
  size = _log_uniform(8, 40, generator)
  starts = np.cumsum(generator.integers(size, size + size // 2 + 2, 2 + len(text) // size))
  borders = [0, *(int(start) for start in starts if start < len(text)), len(text)]
  fragments = [text[a:b] for a, b in itertools.pairwise(borders)]
  order = generator.permutation(len(fragments))[: max(2, round(0.8 * len(fragments)))]
  glued = _choose(_FRAGMENT_JOINTS, generator).join(fragments[i] for i in order)
  return glued if glued.split() != text.split() else text[1:]


def mix(text: str, generator: np.random.Generator) -> str:
  """Damages two to four parts of the text in different ways."""
  words = text.split()
  number = int(generator.integers(2, 5))
  kinds = [_SINGLE[i] for i in generator.permutation(len(_SINGLE))[:number]]
  borders = np.linspace(0, len(words), number + 1).round().astype(int)
  parts = zip(kinds, borders, borders[1:], strict=False)
  return " ".join(kind(" ".join(words[a:b]), generator) for kind, a, b in parts)


def reverse_words(text: str, generator: np.random.Generator) -> str:
  """Puts the words into reverse order; `generator` is not used."""
  return " ".join(reversed(text.split()))


def scramble_letters(text: str, generator: np.random.Generator) -> str:
  """Puts the letters of every word into random order."""
  letters = (np.array(list(word)) for word in text.split())
  scrambled = " ".join("".join(generator.permutation(word)) for word in letters)
  return scrambled if scrambled != text else reverse_words(text, generator)


_SINGLE: list[Damage] = [shuffle_words, repeat, list_keywords, make_menu, ask, glue_fragments]
KINDS: dict[str, Damage] = {kind.__name__: kind for kind in (*_SINGLE, mix)}
# Never trained on, to show how the rater scores damage that it does not know.
UNSEEN_KINDS: dict[str, Damage] = {kind.__name__: kind for kind in (reverse_words, scramble_letters)}


def spoil_part(text: str, generator: np.random.Generator) -> tuple[str, float]:
  """Damages one passage of a quarter to three quarters of the text; returns the text and the share of its words."""
  words = text.split()
  size = max(1, round(generator.uniform(0.25, 0.75) * len(words)))
  start = int(generator.integers(len(words) - size + 1)) if words else 0
  kind = _choose(list(KINDS.values()), generator)
  spoilt = kind(" ".join(words[start : start + size]), generator)
  return " ".join([*words[:start], spoilt, *words[start + size :]]), size / max(1, len(words))


def _log_uniform(low: int, high: int, generator: np.random.Generator) -> int:
  """Draws a whole number from `low` to `high`, small ones more often; 1 <= low."""
  return min(high, int(low * math.exp(generator.random() * math.log((high + 1) / low))))


def _choose(choices, generator: np.random.Generator):
  return choices[int(generator.integers(len(choices)))]


def _part(words: list[str], shortest: int, longest: int, generator: np.random.Generator) -> str:
  """Draws a run of `shortest` to `longest` words, or fewer if there are no more."""
  size = min(len(words), int(generator.integers(shortest, longest + 1)))
  start = int(generator.integers(len(words) - size + 1))
  return " ".join(words[start : start + size])
