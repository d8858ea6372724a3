"""`python -m data_efficiency.train_on_core CORE …`: runs pretraining.train on one core, from its first import on."""

import os
import sys

if __name__ == "__main__":
  os.sched_setaffinity(0, {int(sys.argv[1])})
  from pretraining import train

  sys.exit(train.main(sys.argv[2:]))
