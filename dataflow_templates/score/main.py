"""The Flex Template `score`: its parameters are the flags of `winnow score`."""

import sys

from pipelines import score

if __name__ == "__main__":
  sys.exit(score.main())
