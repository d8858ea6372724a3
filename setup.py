"""A shim: Dataflow's --setup_file wants a setup.py; all metadata is in pyproject.toml."""

import setuptools

setuptools.setup()
