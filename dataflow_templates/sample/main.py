"""The Flex Template `sample`: its parameters are the flags of `winnow sample`."""

import sys

from pipelines import sample

if __name__ == "__main__":
  sys.exit(sample.main())
