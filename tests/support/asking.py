"""Commands that tests/commands run on three small shards, and views of what they print and leave."""

import json
import pathlib


def score(model: str, *flags: str) -> list[str]:
  base = ["--input=in/*", f"--model={model}", "--scores=scores", "--prompt_file=prompt.txt", "--max_input_tokens=64"]
  given = {flag.split("=")[0] for flag in flags}
  return ["score", *(flag for flag in base if flag.split("=")[0] not in given), *flags]


def told(capsys) -> str:
  """Returns what the user reads: one line on standard error, without a traceback."""
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if line.startswith("winnow: ")]
  assert len(lines) == 1, error
  assert "Traceback" not in error
  return lines[0]


def summary(place: pathlib.Path, name: str) -> dict:
  return json.loads((place / f"scores/{name}/summary.json").read_text())


def counted_by_last_run(folder: pathlib.Path) -> dict[str, int]:
  """Returns what the last run counted itself, without what was on record before."""
  logs = sorted((folder / "log").iterdir(), key=lambda path: path.stat().st_mtime_ns)
  return json.loads(logs[-1].read_text())["this_run"]


def forget_a_shard(store: pathlib.Path) -> None:
  """Makes a complete store look as if its command was killed before the last shard."""
  (store / "summary.json").unlink()
  (store / "shards/1.jsonl.parquet").unlink()


def sample(*flags: str) -> list[str]:
  return ["sample", "--scores=scores", "--output=out", *flags]


DRAWING = ["--sampler=ask_llm", "--rate=0.5", "--direct_num_workers=1"]
