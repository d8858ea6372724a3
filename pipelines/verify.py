"""`winnow verify`: recomputes all of an output that can be recomputed, and reports the first difference."""

import dataclasses
import sys
from collections.abc import Sequence

from pipelines.corpus import inputs, stripes
from pipelines.files import storage
from pipelines.flags import parsing
from pipelines.jobs import meter, plan_output, planning
from pipelines.jobs.cascades import plan
from pipelines.output import cascades, manifests, verification
from pipelines.registry import command_names
from pipelines.runners import commands


def verify(argv: Sequence[str]) -> None:
  namespace, beam_arguments = parsing.parse(command_names.VERIFY, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  launcher.refuse_local({"OUTPUT_FOLDER": namespace.output_folder})
  output = inputs.absolute(namespace.output_folder)
  with manifests.naming_manifest(output):
    config, why_no_texts = plan_output.plan_verification(namespace, launcher, output)
    counts = config.manifest["counts"]
    if cascades.FIELD in config.manifest:
      sampling = config.sampling
      asked = plan.asked_of(output, config.manifest, sampling.store, namespace.scores)
      config = dataclasses.replace(config, sampling=dataclasses.replace(sampling, asked=asked))
  # It writes nothing that stays, but a false claim is a failure, not a refusal.
  with commands.writing():
    verification.sweep(output)
    with manifests.naming_manifest(output):
      verification.check_launch(config)
    divided = stripes.divide_among(config.shards, launcher.parallelism, per_worker=2)
    stages = verification.stages(config)
    with meter.Meter(stages, quiet=not launcher.workers_are_here) as progress_meter:
      config = dataclasses.replace(
        config, progress_address=progress_meter.address if launcher.workers_are_here else None
      )
      try:
        if launcher.run(lambda root: root | "Verify" >> verification.Verify(config, divided), "winnow-verify") is None:
          return
      finally:
        storage.delete_folder(config.sampling.work_folder)
  where = f"{config.num_shards:,} shard{'s' * (config.num_shards != 1)}"
  print(f"{counts['selected']:,} documents in {where} are those that the scores select, each once")
  if cascades.FIELD in config.manifest:
    print("the certificate of the cascade is the one that the scores give, and all that it asks about was scored")
  print("their texts are those of the input" if config.texts else f"their texts were not compared: {why_no_texts}")


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(verify, argv)


if __name__ == "__main__":
  sys.exit(main())
