"""The names of the commands, and what each command does."""

EMBED, CLUSTER, SCORE, SAMPLE, CURATE, DEMO = "embed", "cluster", "score", "sample", "curate", "demo"
STATUS, VERIFY, EXPLAIN, REPORT, EVALUATE = "status", "verify", "explain", "report", "evaluate"
COMMANDS = {
  EMBED: "embed every document of a corpus once, for the samplers that look at coverage",
  CLUSTER: "cluster stored embeddings by k-means, and assign every document to a cluster",
  SCORE: "score every document of a corpus once, into a score store",
  SAMPLE: "draw an exact sample from scored documents, and write it as TFRecords for T5X or in another format",
  CURATE: "score a corpus and then draw a sample from it, in one job",
  STATUS: "show the progress of score stores, what is missing, and how long the rest will take",
  VERIFY: "recompute an output from its scores and its input, and report the first difference",
  EXPLAIN: "show a document's scores, how they rank among all, and why it was selected or not",
  REPORT: "make one page about a corpus's scores and the outputs drawn from them: charts, examples, and tables as CSV",
  EVALUATE: "compute the perplexity of training checkpoints on validation sets, as a table and a curve",
  DEMO: "run everything once on this machine's own documents, without arguments and without network",
}
