"""Ask-LLM (paper 3.1)."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.scorers.t5.base import T5Description
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
