"""Flags are declared once; the reference and the parser say the same."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from curation.errors import WinnowError
from pipelines import main
from pipelines.flags import beam_options, declarations, parsing
from pipelines.registry import command_names, examples
from pipelines.registry.flag import Flag

REFERENCE = pathlib.Path(__file__).parents[3] / "docs/reference.md"


def test_the_reference_is_what_the_parser_knows():
  """Kills the mutant that adds a flag and tells nobody."""
  text = REFERENCE.read_text()
  start, stop = text.index("<!-- flags -->\n") + len("<!-- flags -->\n"), text.index("<!-- /flags -->")
  assert text[start:stop] == parsing.reference()


def test_flags_are_unique_over_the_process():
  from apache_beam.options import pipeline_options

  names = [flag.name for flag in declarations.FLAGS]
  assert len(names) == len(set(names))
  assert not set(names) & pipeline_options.PipelineOptions([]).get_all_options().keys()


def test_beams_options_pass_and_neither_kind_may_be_misspelt():
  theirs = ["--runner=FlinkRunner", "--flink_master=local"]
  namespace, beam = parsing.parse("score", ["--input", "x", "--scores=s", *theirs])
  assert namespace.input == "x"
  assert beam == theirs
  with pytest.raises(WinnowError, match="did you mean --scores"):
    parsing.parse("score", ["--scoers=x"])
  with pytest.raises(WinnowError, match="did you mean --output_format"):
    parsing.parse("sample", ["--format=jsonl"])  # --rate and --flink_master are spelt more like it
  with pytest.raises(WinnowError, match="did you mean --flink_master"):
    parsing.parse("score", ["--flink_mater=local"])
  with pytest.raises(WinnowError, match="--rate is no flag of winnow score, but of winnow sample, winnow curate"):
    parsing.parse("score", ["--rate=0.1"])
  with pytest.raises(WinnowError, match="--dask_client_address is refused: Beam's runner for Dask ends without"):
    parsing.parse("score", ["--runner=DaskRunner", "--dask_client_address=tcp://127.0.0.1:8786"])
  with pytest.raises(WinnowError, match="stray"):
    parsing.parse("score", ["stray"])


def test_the_options_named_in_beams_text_are_all_that_it_has():
  """An option that is not among them is refused before Beam is imported. Kills: a pattern that misses some."""
  real = {name for name in beam_options.parser()._option_string_actions if name.startswith("--")}
  assert len(real) > 100 and real <= beam_options.named()


def test_a_command_line_can_be_said_again_without_the_runners_flags():
  argv = ["--rate=0.5", "--sampler=random", "--seed=0", "--output=o", "--direct_num_workers=2", "--overwrite"]
  namespace, _ = parsing.parse("sample", argv)
  said = parsing.own_arguments("sample", [namespace])
  assert said == ["winnow", "sample", "--sampler=random", "--rate=0.5", "--output=o"]
  assert parsing.parse("sample", said[2:])[0].rate == "0.5"


def test_a_value_may_stand_apart_from_its_flag():
  """Kills: a negative number that is taken for a flag; a flag that is taken for the value of the one before it."""
  drawing = ["--scores", "s", "--sampler", "semdedup", "--threshold", "-0.95", "--output", "o", "--overwrite"]
  namespace, of_beam = parsing.parse(command_names.SAMPLE, [*drawing, "--temp_location", "x"])
  assert (namespace.threshold, namespace.overwrite, of_beam) == (-0.95, True, ["--temp_location", "x"])
  with pytest.raises(WinnowError, match="--scores: expected one argument"):
    parsing.parse(command_names.SAMPLE, ["--scores", "--sampler=random", "--rate=0.1", "--output=o"])


@pytest.mark.parametrize("command", command_names.COMMANDS)
def test_help_shows_every_flag_of_a_command(command, capsys):
  """Kills the mutant that shows the groups of a list that somebody forgot to add a flag's to."""
  with pytest.raises(SystemExit):
    parsing.parse(command, ["--help"])
  shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
  for flag in declarations.FLAGS:
    name = flag.name.upper() if flag.positional else f"--{flag.name}"
    assert (name in shown) == (command in flag.commands), name


@pytest.mark.parametrize("command", command_names.COMMANDS)
def test_help_marks_required_flags_shows_defaults_and_speaks_of_its_own_command_alone(command, capsys):
  """Kills: a text for several commands, a required flag that looks like any other, a default that is left out."""
  with pytest.raises(SystemExit):
    parsing.parse(command, ["--help"])
  lines = capsys.readouterr().out.splitlines()
  own = [flag for flag in declarations.FLAGS if command in flag.commands]
  words = " ".join(" ".join(lines).split())
  for flag in own:
    assert "winnow" not in flag.help_in(command), flag.name
    if not flag.positional:
      shown = words.partition(f" --{flag.name} ")[2].partition(" --")[0]
      assert ("(required) " in shown) == (command in flag.required), flag.name
      assert flag.default is None or f"(default: {flag.default})" in words
    assert set(flag.helps) <= set(flag.commands)
  shown = [f"  {line}" for example in examples.EXAMPLES[command] for line in example.shown()]
  assert lines[-len(shown) - 1 :] == ["Examples:", *shown]


def test_a_flag_of_no_known_group_is_refused_where_it_is_declared():
  with pytest.raises(ValueError, match="--speed is of the group 'Pace', which is none of GROUPS"):
    Flag("speed", "Pace", (command_names.SCORE,), "how fast it goes")


def test_a_reader_may_take_only_a_part_of_the_help():
  """Kills: a traceback at the end of `winnow --help | head`."""
  command = [sys.executable, "-m", "pipelines.main", "--help"]
  reader, writer = os.pipe()
  os.close(reader)
  try:
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
  finally:
    os.close(writer)
  assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_is_misspelt_is_told_the_nearest(capsys):
  assert main.main(["smaple", "--rate=0.1"]) == 2
  assert capsys.readouterr().err == "winnow: there is no command smaple; did you mean sample?\n"
  assert main.main(["brew"]) == 2
  assert "there is no command brew; the commands are demo, score, embed" in capsys.readouterr().err


@pytest.mark.parametrize("command", command_names.COMMANDS)
def test_each_example_is_a_command_line_that_parses(command):
  """Kills: an example with a flag that was renamed, that lacks a required one, or that names a recipe there is not."""
  assert len(examples.EXAMPLES[command]) >= 2
  for example in (*examples.EXAMPLES[command], *examples.TOP_LEVEL):
    name, first, *argv = shlex.split(example.line)
    assert name == "winnow" and (first == command or example in examples.TOP_LEVEL)
    parsing.parse_stages(first, argv)
    comment, *lines = example.shown()
    assert comment == f"# {example.text}" and max(map(len, lines)) <= 78
    assert shlex.split(" ".join(lines).replace("\\", "")) == [name, first, *argv]


def test_winnows_own_help_fits_a_terminal_and_lists_every_command_once(capsys):
  """Kills: a command that no group has, and a line that wraps."""
  assert main.main([]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  shown = [line.split()[0] for line in lines if line.startswith("  ")]
  assert [name for name in shown if name in command_names.COMMANDS] == list(command_names.COMMANDS)
