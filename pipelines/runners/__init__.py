"""The runners of pipelines, their devices and accelerators, and the end of a command."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.runners.accelerators import Accelerator as Accelerator
  from pipelines.runners.commands import JobError as JobError
  from pipelines.runners.commands import run_command as run_command
  from pipelines.runners.launch import Launcher as Launcher
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__, names=("accelerators.Accelerator", "commands.JobError", "commands.run_command", "launch.Launcher")
  )
