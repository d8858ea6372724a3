"""`python -m pipelines.distill`."""

import sys

from pipelines import distill

if __name__ == "__main__":
  sys.exit(distill.main())
