"""One module for each format of output shards, `--output_format`."""
