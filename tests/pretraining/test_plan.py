"""`python -m pretraining.plan`: its figures, and a command line that names existing files."""

import ast
import json
import pathlib
import re
import shlex

import pytest
import validation_sets

from pretraining import plan, samples

# A sample of 20% of C4, whose 184B tokens are from section 4.2.
FIFTH_OF_C4 = samples.Sample("gs://b/c4_20", "c4_20", "", 192, 72_973_779, 36_800_000_000)


def test_figures_are_the_papers():
  """Section 4.2: 524B positions for all; by hand 1e6 * 1024 * 568 / 36.8e9 epochs of a fifth, 3.2 of all of C4."""
  description = "\n".join(plan.describe(FIFTH_OF_C4, "t5_large", "gs://b/run"))
  assert "c4_20: 72,973,779 documents in 192 shards" in description and "36,800,000,000" in description
  assert "T5-Large, 1,000,000 steps of 1,024 sequences of 512: 524.3 billion positions" in description
  assert "581.6 billion tokens of text" in description
  assert "epochs     15.81\n" in description
  assert plan.epochs(184 * 10**9) == pytest.approx(3.161, abs=1e-3)
  assert "hosts      1, 2, 4, 8, 16, 32, 64:" in description


@pytest.mark.parametrize("num_shards", [1, 6, 7, 192, 1_000, 1_024, 4_096])
def test_hosts_share_batch_and_shards_evenly(num_shards):
  even = [hosts for hosts in range(1, 5_000) if num_shards % hosts == 0 and 1_024 % hosts == 0]
  assert plan.host_counts(num_shards) == even


def run(arguments: list[str], capsys) -> tuple[str, list[str]]:
  assert plan.main(arguments) == 0
  *lines, command = capsys.readouterr().out.splitlines()
  return "\n".join(lines), shlex.split(command)


@pytest.mark.parametrize("model", plan.MODELS)
def test_the_command_line_names_what_is_there(output, capsys, model):
  """Kills: a gin file that is there in a checkout's folder alone, an output that the shell or gin takes apart."""
  description, command = run([str(output), f"--model={model}"], capsys)
  manifest = json.loads((output / "manifest.json").read_text())
  assert f"{manifest['counts']['selected']:,} documents in 6 shards" in description
  assert f"{manifest['tokens']['selected']:,}" in description
  assert command[:3] == ["python", "-m", "t5x.train"]
  flags = dict(flag.split("=", 1) for flag in command[3:])
  gin_file = pathlib.Path(flags.pop("--gin_file"))
  assert gin_file.is_absolute() and gin_file.is_file() and gin_file.stem == model
  settings = {name: ast.literal_eval(value) for name, value in flags.items()}
  assert settings == {"--gin.SAMPLE": str(output), "--gin.MODEL_DIR": f"{output}_{model}"}
  assert (pathlib.Path(settings["--gin.SAMPLE"]) / "manifest.json").exists()


def test_a_folder_for_the_run_may_be_named(output, capsys, monkeypatch):
  monkeypatch.chdir(output.parent)
  _, command = run([f"{output.name}/", "--model_dir=gs://b/it's"], capsys)
  assert command[-2:] == [f'--gin.SAMPLE="{output}"', '--gin.MODEL_DIR="gs://b/it\'s"']


def test_without_a_count_of_tokens_it_says_where_one_comes_from(place, capsys):
  description, command = run([str(place / "uncounted")], capsys)
  assert (
    "tokens     not counted" in description and "epochs     not known" in description and "--scores=" in description
  )
  assert command


def test_what_cannot_be_trained_on_is_refused(place, capsys):
  assert plan.main([str(place / "columns")]) == 2
  assert plan.main([str(place / "scores")]) == 2
  error = capsys.readouterr().err.splitlines()
  assert (
    len(error) == 2
    and "draw it with --output_format=tfrecord" in error[0]
    and "is a folder of score stores" in error[1]
  )


def test_the_page_says_what_is_so():
  """docs/pretraining.md. Kills: a command line, a figure or a task there that is another here."""
  page = (pathlib.Path(plan.__file__).parent.parent / "docs/pretraining.md").read_text()
  sample = samples.Sample("gs://BUCKET/c4_ask_llm_20", "c4_ask_llm_20", "", 192, 1, 1)
  command = plan.command_line(sample, "t5_large", "gs://BUCKET/runs/ask_llm_20")
  shown = page.replace("/…/site-packages/pretraining/gin", str(plan.GIN_FOLDER))
  assert shlex.join(command) in shown.replace("\\\n      ", "")
  read, fifth = re.findall(r"reads all of C4 \(184B\) ([\d.]+) times, and a fifth of it ([\d.]+)\s+times", page)[0]
  assert [read, fifth] == [f"{plan.epochs(184e9):.1f}", f"{plan.epochs(36.8e9):.1f}"]
  for name, (path, split, _) in validation_sets.SETS.items():
    assert f"| `{name}` | `{':'.join(path.rsplit('/', 1))}`, {split}" in page
