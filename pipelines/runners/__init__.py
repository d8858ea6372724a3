"""Where a pipeline runs, and how a command ends."""
