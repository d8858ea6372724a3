"""Students through the commands: what is learned, on whose scores, and what a student gives every document.

Twelve shards in all formats, dozens of blocks, bad records in the middle; a tiny rater and a tiny Sentence-T5.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import corpora
import numpy as np
import places
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_t5
from running import content, run_in, shards_of

from curation.coverage import minhash
from curation.selection import hashing
from curation.student import learning, splits
from pipelines.scorers.student import artifacts, gathering
from pipelines.store.groups import GroupSizes

BIG_ROWS, SMALL_ROWS = 700, 90
ONE = "--direct_num_workers=1"


def texts(count: int, seed: int) -> list[str]:
  """Texts of different lengths, about a third of them near-copies of texts of any shard."""
  generator = np.random.default_rng(seed)
  repeated = corpora.repeating_texts(count, seed)
  sentences = corpora.sentences(count, seed)
  return [repeated[row] if generator.random() < 0.5 else sentences[row] for row in range(count)]


def reading(place: pathlib.Path) -> list[str]:
  return [f"--input={place}/corpus/*", "--scores=scores", "--block_rows=40", "--max_bad_fraction=0.2", ONE]


def embedding(place: pathlib.Path, *, name: str = "embedded") -> list[str]:
  return ["embed", *reading(place), f"--model={place}/embedder", f"--name={name}"]


def asking(place: pathlib.Path, *more: str) -> list[str]:
  return [f"--model={place}/rater", f"--prompt_file={place}/prompt.txt", "--max_input_tokens=32", *more]


def distilling(*more: str) -> list[str]:
  return ["distill", "--scores=scores", "--teacher=asked", "--student=students/one", *more, ONE]


def scoring(place: pathlib.Path, *more: str) -> list[str]:
  return ["score", "--scorer=student", "--student=students/one", *reading(place), *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("students")
  corpora.write_corpus(folder / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS, make=texts)
  corpora.write_model(folder / "rater")
  tiny_t5.make_sentence_t5(folder / "embedder")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  return folder


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  """Scores of the rater, embeddings, a student, and its scores, each by its own command in one process."""
  folder = place / "undisturbed"
  for command in (
    ["score", *reading(place), *asking(place, "--name=asked")],
    embedding(place),
    distilling(),
    scoring(place),
  ):
    assert run_in(folder, command) == 0
  return folder


@pytest.fixture
def copied(undisturbed, tmp_path) -> pathlib.Path:
  shutil.copytree(undisturbed / "scores", tmp_path / "run/scores")
  shutil.rmtree(tmp_path / "run/scores/student_one")
  return tmp_path / "run"


def student_of(folder: pathlib.Path):
  return artifacts.read(str(folder / "students/one"))


def documents_of(folder: pathlib.Path) -> list[tuple[str, int, float, np.ndarray, int]]:
  """Returns shard, row, the rater's score, embedding and tokens of each document, read by Arrow alone."""
  scores = shards_of(folder / "scores/asked")
  scored = dict(
    zip(
      zip(scores["shard"].to_pylist(), scores["row"].to_pylist(), strict=True), scores["score"].to_pylist(), strict=True
    )
  )
  found = []
  for path in sorted((folder / "scores/embedded/blocks").glob("*/*.parquet")):
    table = pq.read_table(path)
    table = table.filter(pa.compute.is_null(table["reason"]))
    shard = path.parent.name.rpartition("-")[0]
    for row, value, tokens in zip(
      *(table[name].to_pylist() for name in ("row", "embedding", "num_tokens")), strict=True
    ):
      found.append((shard, row, scored[shard, row], np.frombuffer(value, np.float16), tokens))
  return found


def learned_by_hand(documents: list, most: int = 1 << 60) -> learning.Learned:
  hashed = []
  for shard, row, score, point, tokens in documents:
    sample, part = (
      int(hashing.hash_documents(purpose, 0, shard, np.array([row]))[0]) for purpose in (splits.SAMPLE, splits.PART)
    )
    hashed.append((sample, part, score, point, tokens))
  hashed = sorted(hashed, key=lambda entry: entry[:2])[:most]
  return learning.learn(
    learning.Examples(
      np.array([entry[3] for entry in hashed]),
      np.array([entry[4] for entry in hashed], np.int32),
      np.array([entry[2] for entry in hashed], np.float32),
      splits.parts_of(np.array([entry[1] for entry in hashed], np.uint64)),
    ),
    0,
  )


def test_the_student_is_the_one_of_all_documents(undisturbed):
  """Against one loop over the files. Kills the mutants: scores of the row before; bad rows that shift those behind."""
  documents, file = documents_of(undisturbed), student_of(undisturbed)
  assert len(documents) > 1_500
  by_hand = learned_by_hand(documents)
  np.testing.assert_array_equal(file.student.weights, by_hand.student.weights)
  assert file.choice == by_hand.choice
  told = json.loads((undisturbed / "students/one/figures.json").read_text())
  counts = told["documents"]
  assert counts["teacher"] == counts["looked_at"] == counts["used"] == len(documents)
  assert counts["learning"] + counts["choosing"] + counts["judging"] == counts["used"]
  assert (counts["not_finite"], counts["without_embedding"], counts["near_copies"]) == (0, 0, None)
  assert told["figures"] == file.figures and file.figures["documents"] == counts["judging"]
  assert sorted(path.name for path in (undisturbed / "students/one").iterdir()) == [
    "figures.json",
    "log",
    "request.json",
    "student.safetensors",
  ]


def test_every_document_has_the_students_score(undisturbed):
  """To the last bit, as each document alone would have it. Kills: tokens or embeddings of another row."""
  table, student = shards_of(undisturbed / "scores/student_one"), student_of(undisturbed).student
  documents = {(shard, row): (point, tokens) for shard, row, _, point, tokens in documents_of(undisturbed)}
  names = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
  alone = [student.predict(documents[name][0][None], np.array([documents[name][1]], np.int32))[0] for name in names]
  np.testing.assert_array_equal(table["score"].to_numpy(), np.array(alone, np.float32))
  assert len(table) == len(documents)
  request = json.loads((undisturbed / "scores/student_one/request.json").read_text())
  assert request["student"] == student_of(undisturbed).digest and request["scorer"] == "student"


def test_the_same_command_is_done_and_another_is_refused(undisturbed, capsys):
  before = content(undisturbed)
  assert run_in(undisturbed, distilling()) == 0
  assert "on documents it never saw: Spearman" in capsys.readouterr().out
  assert run_in(undisturbed, distilling("--seed=1")) == 2
  assert "belongs to another request: seed is 0 there and 1 now" in capsys.readouterr().err
  assert content(undisturbed) == before


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    (["--teacher=nothing"], "--teacher=nothing is no store of --scores, which has: asked, embedded"),
    (["--teacher=embedded"], "--teacher=embedded holds embeddings; name a store of scores"),
    (["--embedding_name=asked"], "--embedding_name=asked holds ask_llm scores; name a store of embeddings"),
    (["--max_documents=0"], "--max_documents=0 is not from 1 to"),
    (["--student=scores/asked"], "--student=scores/asked is a store"),
  ],
)
def test_what_cannot_work_is_refused_at_launch(undisturbed, wrong, message, capsys):
  before = content(undisturbed)
  assert run_in(undisturbed, distilling("--student=students/other", *wrong)) == 2
  assert message in capsys.readouterr().err and content(undisturbed) == before


def test_another_embedder_is_refused_at_launch(place, undisturbed, tmp_path, capsys):
  """The same model with another limit, and another model. Kills the mutant that compares dimensions alone."""
  before = content(undisturbed)
  assert (
    run_in(
      undisturbed, scoring(place, f"--model={place}/embedder", "--max_input_tokens=9", "--name=x", "--embedding_name=y")
    )
    == 2
  )
  said = capsys.readouterr().err
  assert "--student=students/one has learned from other embeddings than those of" in said
  tiny_t5.make_sentence_t5(tmp_path / "embedder")
  weights = (tmp_path / "embedder/model.safetensors").read_bytes()
  (tmp_path / "embedder/model.safetensors").write_bytes(weights[:-8] + bytes(8))
  assert run_in(undisturbed, scoring(place, f"--model={tmp_path}/embedder", "--name=x", "--embedding_name=y")) == 2
  assert "has learned from other embeddings" in capsys.readouterr().err
  assert content(undisturbed) == before


def test_a_damaged_student_is_refused_and_made_again(place, copied, undisturbed, capsys):
  """Kills: scores by weights that nobody checks; a student that stays damaged for good."""
  shutil.copytree(undisturbed / "students", copied / "students")
  path = copied / "students/one/student.safetensors"
  data = bytearray(path.read_bytes())
  data[-5] ^= 1
  path.write_bytes(bytes(data))
  assert run_in(copied, scoring(place)) == 2
  assert "holds no student, or is damaged" in capsys.readouterr().err
  assert not (copied / "scores/student_one").exists()
  path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(data[8:]))
  assert run_in(copied, scoring(place)) == 2
  assert run_in(copied, distilling()) == 0
  assert content(copied / "students") == content(undisturbed / "students")


@pytest.mark.long
def test_groups_and_workers_change_nothing(copied, undisturbed, monkeypatch):
  """Kills: a group that is read twice or left out; an order of documents that follows from groups."""
  monkeypatch.setattr(gathering, "_GROUPS", GroupSizes(fewest=130, largest=130))
  monkeypatch.setattr(gathering.DistillConfig.__init__, "__defaults__", (None, GroupSizes(fewest=130, largest=130)))
  assert run_in(copied, distilling()) == 0
  assert content(copied / "students") == content(undisturbed / "students")
  assert run_in(copied, [*distilling("--student=students/two")[:-1], "--direct_num_workers=2"]) == 0
  assert content(copied / "students/two") == content(undisturbed / "students/one")


@pytest.mark.long
def test_the_limit_takes_the_first_by_hash(copied, undisturbed, capsys):
  """Kills: a limit on what is gathered that leaves fewer documents than asked for."""
  assert run_in(copied, distilling("--max_documents=600")) == 0
  assert "600 of them used (at most 600, chosen by a hash)" in " ".join(capsys.readouterr().out.split())
  by_hand = learned_by_hand(documents_of(undisturbed), 600)
  np.testing.assert_array_equal(student_of(copied).student.weights, by_hand.student.weights)


@pytest.mark.long
def test_a_teacher_of_some_documents_is_enough(place, copied, undisturbed):
  """A recipe scores half of the corpus. Kills: a join that wants a score for each embedding."""
  recipe = copied / "teach.yaml"
  recipe.write_text("stages:\n- {sampler: random, rate: 0.5}\n- {scorer: ask_llm, name: half, rate: 1}\n")
  assert run_in(copied, ["curate", f"--recipe={recipe}", *reading(place), *asking(place), "--output=out"]) == 0
  assert run_in(copied, distilling("--teacher=half")) == 0
  taught = shards_of(copied / "scores/half")
  names = set(zip(taught["shard"].to_pylist(), taught["row"].to_pylist(), strict=True))
  some = [document for document in documents_of(undisturbed) if document[:2] in names]
  assert 600 < len(some) == len(names) < 1_000
  np.testing.assert_array_equal(student_of(copied).student.weights, learned_by_hand(some).student.weights)


@pytest.mark.long
def test_near_copies_are_joined_by_stored_signatures(place, copied, undisturbed):
  """Kills: signatures of another row; a store of signatures that nobody looks at."""
  assert run_in(copied, ["score", "--scorer=minhash", *reading(place)]) == 0
  assert run_in(copied, distilling()) == 0
  told = student_of(copied).documents
  (corpus,) = [corpora.write_corpus(copied / "again", big_rows=BIG_ROWS, small_rows=SMALL_ROWS, make=texts)]
  scored = shards_of(copied / "scores/minhash")
  names = list(zip(scored["shard"].to_pylist(), scored["row"].to_pylist(), strict=True))
  copies = minhash.near_copies([corpus.texts[name] for name in names])
  assert told["near_copies"] == copies.sum() > 100


@pytest.mark.long
@pytest.mark.parametrize("command", ["distill", "score"])
def test_killed_and_run_again_it_gives_the_same_bytes(place, copied, undisturbed, command):
  """A process is killed as soon as it has put something on record. Kills: half of a file under its final name."""
  line, made = distilling(), copied / "students/one"
  if command == "score":
    shutil.copytree(undisturbed / "students", copied / "students")
    line, made = scoring(place), copied / "scores/student_one"
  killed = 0
  for _ in range(2):
    process = subprocess.Popen(
      [sys.executable, "-m", "pipelines.main", *line],
      cwd=copied,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      start_new_session=True,
      env=places.environment(),
    )
    while process.poll() is None and not [*made.glob("work/*/*"), *made.glob("blocks/*/*")]:
      time.sleep(0.005)
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said.decode()
    killed += process.returncode == -signal.SIGKILL
  assert killed
  assert run_in(copied, line) == 0
  ended, whole = content(made), content(undisturbed / made.relative_to(copied))
  assert {name: data for name, data in ended.items() if "input.json" not in name} == {
    name: data for name, data in whole.items() if "input.json" not in name
  }
