"""Jobs of Slurm, Kubernetes and Flink that run commands in parts, written from the same command lines."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.schedulers.sizes import Sizes as Sizes
  from pipelines.schedulers.steps import Step as Step
else:
  __getattr__, __dir__, __all__ = faces.lazy(__name__, names=("sizes.Sizes", "steps.Step"))
