"""Beam's Prism server: one process that runs all Prism jobs of this process."""

from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import prism_runner
from apache_beam.utils import shared

_ANSWER_SECONDS = 10


def has_ended() -> bool:
  """Tells whether this process started a Prism server that no longer answers."""
  server = _server()
  if server is None:
    return False
  try:
    server.start().GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=_ANSWER_SECONDS)
  except Exception:  # of gRPC, or of a server that could not be started
    return True
  return False


def forget_ended() -> None:
  """Makes the next job start a new server if the last one has ended; Beam itself would use the old one again."""
  if has_ended():
    _server().stop()
    prism_runner.PrismRunner.shared_handle = shared.Shared()


def _server():
  return prism_runner.PrismRunner.shared_handle.acquire(lambda: None)
