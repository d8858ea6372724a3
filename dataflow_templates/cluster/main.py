"""The Flex Template `cluster`: its parameters are the flags of `winnow cluster`."""

import sys

from pipelines import cluster

if __name__ == "__main__":
  sys.exit(cluster.main())
