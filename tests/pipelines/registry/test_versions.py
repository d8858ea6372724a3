"""Versions are those of the installed packages."""

import numpy as np

from pipelines.registry import versions


def test_versions_are_those_that_are_installed():
  found = versions.versions()
  assert found["numpy"] == np.__version__
  assert found[versions.DISTRIBUTION][0].isdigit()
