"""`winnow distill`: learns a student of a rater from stored scores and embeddings of some documents."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
  from pipelines.distill import command

  return command.main(argv)
