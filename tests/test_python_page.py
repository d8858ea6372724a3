"""The examples of docs/python.md run, in order, and give the results that the page shows."""

import ast
import json
import pathlib
import re

import corpora

import pipelines.api as winnow
from curation.demo import rater
from pipelines import main

PAGE = (pathlib.Path(__file__).resolve().parent.parent / "docs/python.md").read_text()
SHOWN = re.compile(r"  # -> (.*)$")


def run(code: str, names: dict) -> int:
  """Runs a block of code; compares the value of each line that shows one, and returns how many do."""
  lines, shown = code.splitlines(), 0
  for statement in ast.parse(code).body:
    match = SHOWN.search(lines[(statement.end_lineno or 0) - 1])
    if isinstance(statement, ast.Expr) and match:
      value = eval(compile(ast.Expression(statement.value), "docs/python.md", "eval"), names)
      assert repr(value) == match[1], ast.unparse(statement)
      shown += 1
    else:
      assert not match, f"only the value of an expression can be shown, not of {ast.unparse(statement)}"
      exec(compile(ast.Module([statement], []), "docs/python.md", "exec"), names)
  return shown


def test_the_examples_run_and_show_what_they_give(tmp_path, monkeypatch, capsys):
  """Kills: an example with a name that has changed, and a result that the page shows and nobody gets."""
  monkeypatch.chdir(tmp_path)
  for shard in range(2):
    lines = [json.dumps({"text": text}) for text in corpora.sentences(20, shard)]
    (tmp_path / f"{shard}.jsonl").write_text("\n".join(lines))
  command = ["score", "--input=*.jsonl", "--scores=demo-output/scores", "--name=demo", f"--model={rater.folder()}"]
  assert main.main(command) == 0
  capsys.readouterr()
  names: dict = {}
  shown = [run(code, names) for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)]
  assert len(shown) >= 6 and sum(shown) >= 6
  printed = re.findall(r"  print\(error\)  # (.*)$", PAGE, re.MULTILINE)
  assert capsys.readouterr().out.splitlines() == printed
  assert len(names["table"]) == names["scores"].count_rows() and len(names["by_shard"]) == 2


def test_the_page_names_everything_that_is_stable():
  """Kills: a public name without documentation."""
  assert not [name for name in winnow.__all__ if f"winnow.{name}" not in PAGE and f"`{name}`" not in PAGE]
