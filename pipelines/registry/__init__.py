"""Commands, flags, and registries: the things of each kind that Winnow and installed packages bring."""
