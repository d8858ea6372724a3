"""The command: plans a student, runs the pipeline that makes it, and prints its figures."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from pipelines.distill import plan
from pipelines.files import fingerprints, storage
from pipelines.flags import parsing
from pipelines.jobs import endings, meter, planning
from pipelines.registry import command_names
from pipelines.runners import commands, launch
from pipelines.scorers.student import artifacts, teaching
from pipelines.scorers.student.gathering import DistillConfig
from pipelines.worker import progress, reshuffle


def distill(argv: Sequence[str]) -> None:
  stopwatch = endings.Stopwatch()
  namespace, beam_arguments = parsing.parse(command_names.DISTILL, argv)
  launcher = planning.make_launcher(namespace, beam_arguments)
  config = plan.plan(namespace, launcher)
  with commands.writing():
    if not _run(launcher, ["winnow", command_names.DISTILL, *argv], config, overwrite=namespace.overwrite):
      return
    for line in lines(fingerprints.read_json(config.path(artifacts.FIGURES_FILE))):
      print(endings.wrapped(line))
    print(f"student: {config.folder}")
    scores = [f"--student={namespace.student}", f"--scores={namespace.scores}"]
    made_from = _input_of(config)
    following = ["winnow", command_names.SCORE, "--scorer=student", *made_from, *scores]
    endings.print_next(stopwatch, [*following, *endings.runner_options(beam_arguments)])


def _run(launcher: launch.Launcher, arguments: Sequence[str], config: DistillConfig, *, overwrite: bool) -> bool:
  """Claims the folder and makes the student, unless it is complete; returns whether it is."""
  name = re.sub("[^a-z0-9]+", "-", f"winnow-distill-{storage.base_name(config.folder)}".lower())
  name = f"{name[:54].strip('-')}-{fingerprints.fingerprint(config.folder)[:8]}"
  if launcher.is_dry_run:
    launcher.run(_definition(config, None), name)
    return False
  launcher.refuse_second(name)
  request_path = config.path(fingerprints.REQUEST_FILE)
  is_other = storage.exists(request_path) and not fingerprints.holds(request_path, config.fingerprint)
  if overwrite and (is_other or teaching.is_complete(config)):
    _clear(config)
  fingerprints.claim(request_path, config.request, owner=f"the student {config.folder}")
  if not teaching.is_complete(config):
    progress_meter = meter.Meter(teaching.stages(config), quiet=not launcher.workers_are_here)
    with commands.Log(config.folder, arguments) as log, progress_meter:
      address = progress_meter.address if launcher.workers_are_here else None
      if (counters := launcher.run(_definition(config, address), name)) is None:
        return False
      log.entry["this_run"] = counters
  storage.delete_folder(config.path(artifacts.WORK_FOLDER))
  storage.sweep_temporary_files(config.folder)
  return True


def _clear(config: DistillConfig) -> None:
  """Removes a student, what it was asked for, and work on it; the figures go first, so that it is never complete."""
  for name in (artifacts.FIGURES_FILE, artifacts.STUDENT_FILE):
    storage.delete([config.path(name)])
  storage.delete_folder(config.path(artifacts.WORK_FOLDER))
  storage.delete([config.path(fingerprints.REQUEST_FILE)])


def _definition(config: DistillConfig, address: progress.Address | None) -> Any:
  def define(root: beam.Pipeline) -> None:
    _ = (
      root
      | "Begin" >> reshuffle.One(None)
      | "Distill" >> teaching.Distill(dataclasses.replace(config, progress_address=address))
    )

  return define


def _input_of(config: DistillConfig) -> list[str]:
  path = storage.join(config.embeddings.store.folder, "input.json")
  place = fingerprints.field(path, "input")
  return [f"--input={place}"] if isinstance(place, str) else []


def lines(made: dict[str, Any]) -> list[str]:
  """Returns what a user should know of a complete student."""
  documents, choice, figures = made["documents"], made["choice"], made["figures"]
  used = documents["used"]
  shown = [f"{documents['teacher']:,} documents scored by the teacher, {used:,} of them used"]
  if documents["looked_at"] < documents["teacher"] or used + documents["not_finite"] < documents["looked_at"]:
    shown[0] += f" (at most {made['request']['max_documents']:,}, chosen by a hash)"
  for name, what in (("not_finite", "with a score that is not finite"), ("without_embedding", "without an embedding")):
    if documents[name]:
      shown.append(f"{documents[name]:,} documents {what} were left out")
  repeats = documents["near_copies"]
  joined = "near-copies may be on both sides: there is no store of MinHash signatures"
  if repeats is not None:
    joined = f"{repeats:,} near-copies are on the side of what they repeat"
  shown.append(
    f"{documents['learning']:,} to learn from, {documents['choosing']:,} to choose by, {documents['judging']:,} to "
    f"judge by; {joined}"
  )
  shown.append(f"length of the text: {documents['length']}")
  correlations = choice["spearman"]
  shown.append(
    f"Spearman of the choice: ridge {correlations['ridge']:.4f}, network {correlations['network']:.4f}; the "
    f"{choice['kind']} is taken"
  )
  tau = figures["kendall_tau"]
  shown.append(
    f"on documents it never saw: Spearman {figures['spearman']:.4f}, Kendall's tau "
    f"{'unknown' if tau is None else format(tau, '.4f')}, R² {figures['r_squared']:.4f}"
  )
  for entry in figures["recall"]:
    pairs = zip(entry["asked"], entry["share"], strict=True)
    reached = ", ".join(f"{share:.1%} in {asked:.0%}" for asked, share in pairs if entry["rate"] <= asked < 1)
    shown.append(f"of the teacher's best {entry['rate']:.0%}, among the student's best: {reached}")
  return shown


def main(argv: Sequence[str] | None = None) -> int:
  return commands.run_command(distill, sys.argv[1:] if argv is None else argv)
