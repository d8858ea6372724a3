"""`winnow demo`: its histogram shows how scores spread, and it ends with a report."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich.console

from pipelines import demo, report

PROJECT = pathlib.Path(__file__).parents[2]


def test_the_histogram_spreads_scores_that_are_near_zero(tmp_path):
  """Kills the mutants: bins of equal width, in which all good documents are one bar; documents that are in no bin; a
  threshold within a bin, or bars that are kept on its wrong side."""
  generator = np.random.default_rng(0)
  probabilities = 1 / (1 + np.exp(generator.exponential(1, 2_000) - 5))
  scores = np.log(probabilities).astype(np.float32)
  threshold = float(np.sort(scores)[-400])
  (tmp_path / "scores/demo/shards").mkdir(parents=True)
  columns = {"score": scores, "shard": ["a"] * len(scores), "row": np.arange(len(scores))}
  pq.write_table(pa.table(columns), tmp_path / "scores/demo/shards/a.parquet")
  (tmp_path / "sample").mkdir()
  (tmp_path / "sample/manifest.json").write_text(json.dumps({"threshold": {"score": threshold}}))
  console = rich.console.Console(width=100, highlight=False, record=True, file=io.StringIO())
  demo._histogram(console, tmp_path)
  text = console.export_text()
  rows = re.findall(r"^ *(-[\d.]+) +[\d.]+% +([\d,]+)(.*)$", text, re.MULTILINE)
  counts = [int(count.replace(",", "")) for _, count, _ in rows]
  assert sum(counts) == len(scores) and max(counts) < len(scores) / 3
  assert [bar.strip(" █") for _, _, bar in rows] == [""] * (len(rows) - 2) + ["kept"] * 2
  assert sum(counts[-2:]) == 400


@pytest.mark.long
def test_the_demo_ends_with_a_report_and_opens_it_when_asked(tmp_path):
  """Kills the mutants: a report that is not there; a page that is opened unasked, or another one; steps that end with
  commands to type, which the demo runs itself."""
  browser, opened = tmp_path / "browser", tmp_path / "opened"
  browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
  browser.chmod(0o755)
  environment = {**os.environ, "BROWSER": str(browser), "PYTHONPATH": str(PROJECT)}
  for flags, is_opened in (([], False), (["--open"], True)):
    result = subprocess.run(
      [sys.executable, "-m", "pipelines.demo", *flags], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    page = tmp_path / demo.OUTPUT / "report" / report.PAGE
    assert page.is_file() and f"Open the report in a browser: {page.as_uri()}" in result.stdout
    assert opened.exists() == is_opened and "next:" not in result.stdout
  assert opened.read_text().strip() == page.as_uri()
