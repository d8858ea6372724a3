"""What stores hold, by the scorer that fills them, and the columns of their files."""

import pyarrow as pa

SCORE, EMBEDDING, SIGNATURE = "score", "embedding", "signature"
EMBED, CLUSTER, SIGN = "embed", "cluster", "sign"  # the scorers of stores that keep blocks, and what these are of
KEEPING_BLOCKS = {EMBED: "embeddings", CLUSTER: "clusters", SIGN: "signatures"}
COUNT = "count"  # the scorer of stores whose documents are only counted
ROW = pa.field("row", pa.int64())
SCORE_FIELD = pa.field(SCORE, pa.float32())
CLUSTER_FIELDS = (pa.field("cluster", pa.int32()), pa.field("cosine", pa.float32()))
NUM_TOKENS = pa.field("num_tokens", pa.int32())
DOMAIN = pa.field("domain", pa.string())
SHARD = pa.field("shard", pa.dictionary(pa.int32(), pa.string()))
