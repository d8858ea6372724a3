"""Scores and embeddings of texts by a T5: Ask-LLM, perplexity and Sentence-T5."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from curation.scorers.ask_llm import AskLlmScorer as AskLlmScorer
  from curation.scorers.ask_llm import Prompt as Prompt
  from curation.scorers.corpus_loss import CorpusLoss as CorpusLoss
  from curation.scorers.perplexity import PerplexityScorer as PerplexityScorer
  from curation.scorers.sentence_t5 import SentenceT5 as SentenceT5
  from curation.scorers.sentence_t5 import SentenceT5Embedder as SentenceT5Embedder
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "ask_llm.AskLlmScorer",
      "ask_llm.Prompt",
      "corpus_loss.CorpusLoss",
      "perplexity.PerplexityScorer",
      "sentence_t5.SentenceT5",
      "sentence_t5.SentenceT5Embedder",
    ),
  )
