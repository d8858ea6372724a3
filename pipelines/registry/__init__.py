"""Commands, flags, and registries: what there is of each kind, ours and what installed packages bring."""
