import pytest

from curation.errors import WinnowError
from pipelines import launch


def test_the_sentence_is_found_below_every_layer_of_a_runner():
  try:
    try:
      raise WinnowError("x.gz cannot be read: replace it")
    except WinnowError as error:
      raise RuntimeError(
        f"Traceback ...\n  curation.errors.WinnowError: {error} [while running 'Score/ScoreBlocks']\n"
      ) from error
  except RuntimeError as error:
    assert launch.sentence_of(error) == "x.gz cannot be read: replace it"


def test_what_has_no_sentence_is_told_by_its_last_line():
  assert "RuntimeError: the last line" in launch.sentence_of(RuntimeError("first\nthe last line"))


@pytest.mark.parametrize(
  ("error", "status"), [(WinnowError("no"), 2), (launch.JobError("no"), 1), (KeyboardInterrupt(), 130), (None, 0)]
)
def test_exit_statuses(error, status, capsys):
  def command(argv):
    if error:
      raise error

  assert launch.run_command(command, []) == status
  assert len(capsys.readouterr().err.splitlines()) == (status != 0)


def test_the_runner_is_named_by_winnow_and_not_by_beam():
  launcher = launch.Launcher(["--direct_num_workers=3"])
  assert launcher.is_local
  assert launcher.parallelism == 3
  assert not launch.Launcher(["--runner=FlinkRunner"]).is_local
