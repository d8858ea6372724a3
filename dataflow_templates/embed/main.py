"""The Flex Template `embed`: its parameters are the flags of `winnow embed`."""

import sys

from pipelines import embed

if __name__ == "__main__":
  sys.exit(embed.main())
