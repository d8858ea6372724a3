"""The flags of a cascade, which asks a rater only about documents that a proxy cannot rule out."""

from pipelines.registry.command_names import CURATE
from pipelines.registry.flag import BUCKET, Flag, path

_SHARE = r"0?\.\d+"
FLAGS = (
  Flag(
    "proxy",
    "Cascade",
    (CURATE,),
    "a complete score store, by its name in --scores or by its folder: ask the rater only about documents that this "
    "proxy cannot rule out, with a certificate of what is kept",
    type=path,
    pattern=rf"{BUCKET}|\w+",
  ),
  Flag(
    "recall",
    "Cascade",
    (CURATE,),
    "with --proxy: the share of the documents that the rater alone would select, at least so many of which are kept",
    default="0.95",
    pattern=_SHARE,
  ),
  Flag(
    "confidence",
    "Cascade",
    (CURATE,),
    "with --proxy: the probability with which --recall is kept, over the draw of the audit",
    default="0.95",
    pattern=_SHARE,
  ),
  Flag(
    "audit",
    "Cascade",
    (CURATE,),
    "with --proxy: the number of documents, drawn at random, that the rater scores first, and on which the certificate "
    "rests (default: 20,000, but at most a twentieth of the corpus, and at least as many as can certify)",
    type=int,
  ),
)
