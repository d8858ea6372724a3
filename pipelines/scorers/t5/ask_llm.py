"""Ask-LLM (paper 3.1)."""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar

from curation.errors import WinnowError
from pipelines.files import storage
from pipelines.registry.flag import BUCKET, Flag, path
from pipelines.scorers.entry import SCORING, Entry, Stored
from pipelines.scorers.t5.base import T5Description, common_flags
from pipelines.scoring.description import Scorer

if TYPE_CHECKING:
  from curation.models.engine import Work


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskLlm(T5Description):
  """Ask-LLM (paper 3.1, Algorithm 1): log P("yes") under an instruction-tuned T5."""

  SCORER: ClassVar[str] = "ask_llm"
  template: str | None = None
  """The prompt, with one `{document}`; None for the paper's."""
  yes_token: str = "yes"
  max_input_tokens: int = 512

  def request(self) -> dict[str, Any]:
    return {**super().request(), "prompt": self._prompt().template, "yes_token": self.yes_token}

  def _check(self, folder: pathlib.Path) -> None:
    from curation.scorers import ask_llm

    ask_llm.check_request(
      self._prompt(),
      *self._checked_config(folder),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      devices_per_model=self.devices_per_model,
    )

  def _load(self, folder: pathlib.Path) -> Scorer:
    from curation.scorers import ask_llm

    return ask_llm.AskLlmScorer(
      self._checkpoint(folder),
      self._prompt(),
      max_input_tokens=self.max_input_tokens,
      batch_tokens=self.batch_tokens,
      dtype=self.dtype,
      devices_per_model=self.devices_per_model,
    )

  def _work(self, folder: pathlib.Path, texts: list[str], batch_tokens: int) -> "Work":
    from curation.scorers import ask_llm

    config, vocabulary = self._checked_config(folder)
    longest = self.max_input_tokens
    return ask_llm.work(self._prompt(), config, vocabulary, texts, max_input_tokens=longest, batch_tokens=batch_tokens)

  def _prompt(self):
    from curation.scorers import ask_llm

    return ask_llm.Prompt(ask_llm.TEMPLATE if self.template is None else self.template, self.yes_token)


def describe(namespace: argparse.Namespace, stored: Stored) -> AskLlm:
  del stored
  template = _read_prompt(namespace.prompt_file)
  return AskLlm(template=template, yes_token=namespace.yes_token, **common_flags(namespace))


def _read_prompt(path: str | None) -> str | None:
  """Returns the text of --prompt_file, as it is."""
  if path is None:
    return None
  try:
    return storage.read_bytes(path).decode()
  except (OSError, UnicodeDecodeError) as error:
    raise WinnowError(f"--prompt_file={path} cannot be read: {error}") from error


ENTRY = Entry(
  name="ask_llm",
  has_model=True,
  describe=describe,
  flags=(
    Flag(
      "prompt_file",
      "Scorer",
      SCORING,
      "a text file, local or gs://, that contains {document} once and replaces the paper's prompt",
      type=path,
      pattern=BUCKET,
    ),
    Flag(
      "yes_token",
      "Scorer",
      SCORING,
      "the answer whose probability is the score; it must be a single piece of the vocabulary",
      default="yes",
    ),
  ),
)
