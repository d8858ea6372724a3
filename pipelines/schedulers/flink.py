"""A Flink cluster on Kubernetes, for its operator, with a pool of Python workers in the pod of each TaskManager.

The containers of a pod share one network. So a TaskManager reaches its pool at a port of its own host, and no two
TaskManagers share one.
"""

import shlex
from collections.abc import Sequence
from typing import Any

from pipelines.schedulers import steps as steps_module
from pipelines.schedulers.kubernetes import Pods, written
from pipelines.schedulers.sizes import Sizes
from pipelines.schedulers.steps import Step

VERSION = "2.0"  # the one on which Winnow's jobs were run
_PORT, _REST = 50000, 8081
_NAME_LENGTH = 45  # the operator's limit
_SERVICE_ACCOUNT = "flink"  # which the operator makes
# By the size of the graph (docs/engines.md): that of one command, and that of a recipe of several stages. Flink needs
# network memory as a minimum, since its share of a small TaskManager would be less.
_SMALL = {"jobmanager": "2048m", "taskmanager": "2048m", "network": "256mb", "timeout": "10 s"}
_LARGE = {"jobmanager": "3072m", "taskmanager": "4096m", "network": "512mb", "timeout": "5 min"}


def deployment(steps: Sequence[Step], sizes: Sequence[Sizes], pods: Pods, *, typed: Sequence[str]) -> str:
  """Returns the manifest of the cluster. `typed`: the command line that asked for it."""
  graph = _LARGE if any(len(step.stages) > 1 for step in steps) else _SMALL
  largest = max(sizes, key=lambda size: (size.gpus, size.memory_gb))
  pool = pods.container(
    "worker-pool", ["python", "-m", "pipelines.runners.worker_pool", f"--service_port={_PORT}"], largest
  )
  configuration = {
    "taskmanager.numberOfTaskSlots": "1",
    "taskmanager.memory.network.min": graph["network"],
    "taskmanager.memory.network.max": graph["network"],
    "pekko.ask.timeout": graph["timeout"],
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": "10",
  }
  spec: dict[str, Any] = {
    "image": f"flink:{VERSION}-java17",
    "flinkVersion": f"v{VERSION.replace('.', '_')}",
    # Kubernetes starts what ends again, and there are all TaskManagers from the beginning.
    "mode": "standalone",
    "serviceAccount": pods.service_account or _SERVICE_ACCOUNT,
    "flinkConfiguration": configuration,
    "jobManager": {"resource": {"memory": graph["jobmanager"], "cpu": 1}},
    "taskManager": {
      "replicas": largest.parts,
      "resource": {"memory": graph["taskmanager"], "cpu": 1},
      "podTemplate": {"spec": {"containers": [pool]} | pods.volumes()},
    },
  }
  metadata = {"name": name_of(steps)}
  return written(
    {"apiVersion": "flink.apache.org/v1beta1", "kind": "FlinkDeployment", "metadata": metadata, "spec": spec}, typed
  )


def name_of(steps: Sequence[Step]) -> str:
  return steps_module.job_name(steps, longest=_NAME_LENGTH)


def following(steps: Sequence[Step], sizes: Sequence[Sizes]) -> list[str]:
  """Returns the lines to type once the cluster is applied: until it is ready, to reach it, and to run the commands."""
  name = name_of(steps)
  runner = [
    "--runner=FlinkRunner",
    f"--flink_master=localhost:{_REST}",
    f"--flink_version={VERSION}",
    "--environment_type=EXTERNAL",
    f"--environment_config=localhost:{_PORT}",
    f"--parallelism={sizes[0].parts}",
  ]
  return [
    f"kubectl wait --for=jsonpath='{{.status.jobManagerDeploymentStatus}}'=READY --timeout=10m flinkdeployment/{name}",
    f"kubectl port-forward service/{name}-rest {_REST} &",
    *(shlex.join(["winnow", step.command, *step.arguments, *runner]) for step in steps),
    f"kubectl delete flinkdeployment/{name}",
  ]
