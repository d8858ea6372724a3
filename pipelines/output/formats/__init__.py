"""The formats of output shards (`--output_format`), one module each."""
