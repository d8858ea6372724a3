"""Cascades: a rater is asked only about documents that a proxy cannot rule out, with a certificate."""
