"""`winnow launch flink`: the cluster, and the commands to type on it."""

import shlex

import pytest
import yaml

from pipelines import main
from pipelines.flags import parsing

ON = ["flink", "--parts=4", "--image=registry/winnow"]
SCORE = ["--", "score", "--model=org/model", "--input=gs://b/a 'b'/*.jsonl", "--scores=gs://b/scores"]
STAGES = ["--", "curate", "--recipe=d4", "--model=org/model", *SCORE[3:], "--output=gs://b/d4"]


@pytest.mark.parametrize(
  ("argv", "sentence"),
  [
    ([*ON, *SCORE, "--runner=FlinkRunner"], "winnow launch names the runner itself"),
    ([*ON, *SCORE, "--part_timeout=5"], "score --part_timeout: Flink divides the work itself"),
    ([*ON, "--hours=3", *SCORE], "--hours is for winnow launch slurm and k8s"),
    ([*ON[:2], *SCORE], "--image= must be given"),
  ],
)
def test_what_flink_has_no_use_for_is_refused(capsys, argv, sentence):
  assert main.main(["launch", *argv]) == 2
  assert sentence in capsys.readouterr().err


def test_each_task_manager_has_a_pool_of_its_own_and_the_commands_reach_it(capsys):
  """Kills the mutants: a pool at another port, fewer TaskManagers than the commands use, a Flink of another version
  than the commands name, a command that is not quoted.
  """
  assert main.main(["launch", *ON, "--gpus_per_task=2", "--memory=20", *SCORE]) == 0
  printed = capsys.readouterr()
  deployment = yaml.safe_load(printed.out)
  spec = deployment["spec"]
  manager = spec["taskManager"]
  (pool,) = manager["podTemplate"]["spec"]["containers"]
  assert pool["command"][:3] == ["python", "-m", "pipelines.runners.worker_pool"]
  assert pool["resources"]["limits"] == {"memory": "20Gi", "nvidia.com/gpu": "2"}
  assert (manager["replicas"], spec["flinkConfiguration"]["taskmanager.numberOfTaskSlots"]) == (4, "1")
  wait, reach, run, end = printed.err.partition("next:\n")[2].splitlines()
  name = deployment["metadata"]["name"]
  assert len(name) <= 45 and all(name in line for line in (wait, reach, end))
  winnow, command, *argv = shlex.split(run)
  assert (winnow, command, argv[: len(SCORE) - 2]) == ("winnow", "score", SCORE[2:])
  (namespace,), of_beam = parsing.parse_stages(command, argv)
  assert namespace.part is None and not namespace.part_steal
  flags = dict(option.removeprefix("--").split("=") for option in of_beam)
  port = pool["command"][-1].removeprefix("--service_port=")
  assert (flags["parallelism"], flags["environment_config"]) == ("4", f"localhost:{port}")
  assert spec["flinkVersion"] == f"v{flags['flink_version'].replace('.', '_')}"
  assert spec["image"].startswith(f"flink:{flags['flink_version']}-")


def test_a_recipe_of_several_stages_gets_the_memory_of_its_graph(capsys):
  """Kills the mutant that sizes all graphs alike: deployment of the vertices of a recipe would time out."""
  sizes = []
  for steps in (SCORE, STAGES):
    assert main.main(["launch", *ON, *steps]) == 0
    spec = yaml.safe_load(capsys.readouterr().out)["spec"]
    sizes.append((spec["jobManager"]["resource"]["memory"], spec["flinkConfiguration"]["pekko.ask.timeout"]))
  assert sizes == [("2048m", "10 s"), ("3072m", "5 min")]
