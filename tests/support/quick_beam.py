"""A cache of what Beam computes anew for every step of every graph; without it commands take twice as long."""

import contextlib
import copy
import types
from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.options import pipeline_options
from apache_beam.runners.worker import statecache
from apache_beam.transforms import userstate


@contextlib.contextmanager
def installed() -> Iterator[None]:
  """Keeps two things that follow from a class and its arguments alone; Beam asks for both some hundred times a graph.

  These are the state that a DoFn declares, which Beam reads from the signatures of all its methods, and the options
  that a list of flags gives, for which Beam builds a parser each time. A side input in Beam's cache counts as a
  kilobyte: to measure one, Beam looks at the globals of all modules.
  """
  find_specs, parse = userstate.get_dofn_specs, pipeline_options.PipelineOptions.__init__
  specs: dict[type, Any] = {}
  parsed: dict[tuple[type, tuple[str, ...]], Any] = {}

  def get_dofn_specs(dofn):
    if any(isinstance(value, types.MethodType) for value in vars(dofn).values()):
      return find_specs(dofn)
    if type(dofn) not in specs:
      specs[type(dofn)] = find_specs(dofn)
    return specs[type(dofn)]

  def initialize(self, flags=None, **overrides):
    key = (type(self), None if flags is None or isinstance(flags, str) else tuple(flags))
    if key[1] is None or key not in parsed:
      parse(self, flags, **overrides)
      if key[1] is not None:
        parsed[key] = copy.deepcopy(self._visible_options)
      return
    self._flags, self._visible_options, self._all_options = flags, copy.deepcopy(parsed[key]), overrides
    for name in self._visible_option_list():
      self._all_options.setdefault(name, getattr(self._visible_options, name))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(statecache, "get_deep_size", lambda *objects: 1024)
    patch.setattr(userstate, "get_dofn_specs", get_dofn_specs)
    patch.setattr(pipeline_options.PipelineOptions, "__init__", initialize)
    yield
