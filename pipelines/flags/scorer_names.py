"""The names of scorers and samplers."""

ASK_LLM, PERPLEXITY, DENSITY, RANDOM, MINHASH = "ask_llm", "perplexity", "density", "random", "minhash"
SEMDEDUP, PROTOTYPES = OF_CLUSTERS = "semdedup", "prototypes"
OF_EMBEDDINGS = (DENSITY, *OF_CLUSTERS)
SCORERS = (ASK_LLM, PERPLEXITY, *OF_EMBEDDINGS, MINHASH)
DOMAIN = "domain"
