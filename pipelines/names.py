"""The names of commands and scorers, and what each command does."""

EMBED, CLUSTER, SCORE, SAMPLE, CURATE, DEMO = "embed", "cluster", "score", "sample", "curate", "demo"
STATUS, VERIFY, EXPLAIN, REPORT, EVALUATE = "status", "verify", "explain", "report", "evaluate"
COMMANDS = {
  EMBED: "embed every document of a corpus once, for the samplers that look at coverage",
  CLUSTER: "find clusters of a store of embeddings by k-means, and the one of every document",
  SCORE: "score every document of a corpus once, into a score store",
  SAMPLE: "draw an exact sample from scored documents, as TFRecords for T5X",
  CURATE: "score, then sample when the store is complete, in one job",
  STATUS: "what of a score store is there, what is missing, and how long it will take, from the store alone",
  VERIFY: "recompute all that can be of an output, and say the first thing that is not so",
  EXPLAIN: "a document's scores, where they stand among all, and why it was selected or not",
  REPORT: "one page about a corpus's scores and the outputs drawn by them: charts, examples, figures as CSV",
  EVALUATE: "the perplexity of checkpoints of training runs on validation sets: figures and their curve",
  DEMO: "a whole run on this machine's own documents: no arguments, no network",
}
ASK_LLM, PERPLEXITY, DENSITY, RANDOM, MINHASH = "ask_llm", "perplexity", "density", "random", "minhash"
SEMDEDUP, PROTOTYPES = OF_CLUSTERS = "semdedup", "prototypes"
OF_EMBEDDINGS = (DENSITY, *OF_CLUSTERS)
SCORERS = (ASK_LLM, PERPLEXITY, *OF_EMBEDDINGS, MINHASH)
DOMAIN = "domain"
