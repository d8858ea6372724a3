"""Work that is divided into smaller units than users' corpora need, so that small corpora of tests have dozens."""

import contextlib
import functools
from collections.abc import Iterator

import pytest

from pipelines.scoring.preparation import Preparation
from pipelines.store.groups import GroupSizes


@contextlib.contextmanager
def divided(preparation: type[Preparation], *, group: int, **sizes: int) -> Iterator[None]:
  """Has commands of this process divide a preparation into groups of `group` documents, and of other sizes.

  Worker processes divide alike: they get the sizes with the config.
  """
  groups = GroupSizes(fewest=group, largest=group)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(preparation, "config_type", functools.partial(preparation.config_type, groups=groups, **sizes))
    yield
