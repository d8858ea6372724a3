"""A sample made by the real commands, and the vocabulary of the rater that counted its tokens."""

import pathlib
from typing import Any

import corpora
import pytest
from running import run_in

NUM_SHARDS = 6


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> pathlib.Path:
  """A folder with samples in it: `half [50]`, and one as Parquet."""
  folder = tmp_path_factory.mktemp("pretraining")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  corpora.write_model(folder / "model")
  corpora.write_corpus(folder / "corpus", big_rows=1_500, small_rows=200)
  scoring = [f"--input={folder}/corpus/*", f"--model={folder}/model", f"--prompt_file={folder}/prompt.txt"]
  scoring += ["--scores=scores", "--max_input_tokens=32", "--max_bad_fraction=0.1", "--direct_num_workers=1"]
  assert run_in(folder, ["score", *scoring]) == 0
  for output, *flags in (
    ("half [50]", "--rate=0.5", f"--num_shards={NUM_SHARDS}"),
    ("tenth", "--rate=0.1", "--num_shards=1"),
    ("columns", "--rate=0.1", "--output_format=parquet"),
  ):
    drawing = ["--scores=scores", "--sampler=ask_llm", f"--output={output}", "--direct_num_workers=1", *flags]
    assert run_in(folder, ["sample", *drawing]) == 0
  counting = [f"--input={folder}/corpus/*", "--sampler=random", "--rate=0.1", "--output=uncounted"]
  assert run_in(folder, ["sample", *counting, "--max_bad_fraction=0.1", "--direct_num_workers=1"]) == 0
  return folder


@pytest.fixture(scope="session")
def output(place) -> pathlib.Path:
  """A sample of half the documents in NUM_SHARDS shards, in a folder whose name looks like a glob."""
  return place / "half [50]"


@pytest.fixture(scope="session")
def vocabulary(place) -> Any:
  import seqio

  return seqio.SentencePieceVocabulary(str(place / "model/spiece.model"), extra_ids=100)


@pytest.fixture(autouse=True)
def registries():
  """Removes what a test registers with seqio."""
  yield
  import seqio

  for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
    for name in [name for name in registry.names() if name.startswith("winnow_")]:
      registry.remove(name)
