"""The names of commands, and what each command does."""

EMBED, CLUSTER, SCORE, SAMPLE, CURATE, DEMO = "embed", "cluster", "score", "sample", "curate", "demo"
STATUS, VERIFY, EXPLAIN, REPORT, EVALUATE = "status", "verify", "explain", "report", "evaluate"
COMMANDS = {
  EMBED: "embed every document of a corpus once, for the samplers that look at coverage",
  CLUSTER: "cluster stored embeddings by k-means, and assign every document to a cluster",
  SCORE: "score every document of a corpus once, into a score store",
  SAMPLE: "draw an exact sample from scored documents, as TFRecords for T5X",
  CURATE: "score, then sample when the store is complete, in one job",
  STATUS: "show how far score stores have come, what is missing, and how long the rest will take",
  VERIFY: "recompute an output from its scores and its input, and report the first difference",
  EXPLAIN: "show a document's scores, how they rank among all, and why it was selected or not",
  REPORT: "make one page about a corpus's scores and the outputs drawn from them: charts, examples, figures as CSV",
  EVALUATE: "compute the perplexity of training checkpoints on validation sets, as figures and a curve",
  DEMO: "run everything once on this machine's own documents: no arguments, no network",
}
