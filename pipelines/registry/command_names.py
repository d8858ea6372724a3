"""The names of the commands in their groups, and what each command does."""

EMBED, CLUSTER, SCORE, SAMPLE, CURATE, DEMO = "embed", "cluster", "score", "sample", "curate", "demo"
DISTILL = "distill"
STATUS, VERIFY, EXPLAIN, REPORT, EVALUATE = "status", "verify", "explain", "report", "evaluate"
LAUNCH = "launch"
# In the order in which one uses them. A command and its line fit into a terminal of 80 columns.
GROUPS = {
  "Try it": {
    DEMO: "run everything once on this machine's own documents, without network",
  },
  "Score a corpus": {
    SCORE: "score every document of a corpus once, into a score store",
    EMBED: "embed every document once, for the scorers that look at coverage",
    CLUSTER: "cluster stored embeddings, and assign every document to a cluster",
    DISTILL: "learn a student of a rater from the scores of some documents",
    STATUS: "show the progress of score stores, and how long the rest will take",
  },
  "Draw a sample": {
    SAMPLE: "draw an exact sample of scored documents, and write it to files",
    CURATE: "score a corpus and then draw a sample of it, in one job",
  },
  "Look at the result": {
    REPORT: "make one page about scores and samples: charts, examples, tables",
    EXPLAIN: "show a document's scores, and why it was selected or not",
    VERIFY: "recompute an output, and report the first difference",
  },
  "After training": {
    EVALUATE: "compute the perplexity of checkpoints on validation sets",
  },
  "Use many machines": {
    LAUNCH: "write the jobs that run commands on Slurm, Kubernetes or Flink",
  },
}
IN_PARTS = (SCORE, EMBED, CLUSTER, SAMPLE, CURATE, EVALUATE)
"""The commands that take `--part`."""
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
