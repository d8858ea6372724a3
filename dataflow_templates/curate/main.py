"""The Flex Template `curate`: its parameters are the flags of `winnow curate`."""

import sys

from pipelines import curate

if __name__ == "__main__":
  sys.exit(curate.main())
