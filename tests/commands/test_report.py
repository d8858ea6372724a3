"""`winnow report`: its figures are those of a direct computation, and what cannot be reported is refused."""

import collections
import html
import json
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
import reported
import scipy.stats
import yaml
from reported import OUTPUTS, ROWS, SCORERS, documents_of, make, read, scores_of
from running import content, run_in

from pipelines import report
from pipelines.files import fingerprints
from pipelines.flags import parsing
from pipelines.output.formats.registry import FORMATS
from pipelines.registry import command_names
from pipelines.reports import choices, examples, figures, material, passes
from pipelines.reports.cards import dataset_card


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
  place = tmp_path_factory.mktemp("report")
  reported.build(place, OUTPUTS)
  before = content(place)
  assert make(place) == 0
  after = content(place)
  assert {name: data for name, data in after.items() if not name.startswith("page/")} == before
  assert {name for name in after if name.startswith("page/")} == {f"page/{name}" for name in files()}
  return place


def files() -> list[str]:
  return [report.PAGE, *(f"{name}.csv" for name in report.FIGURES), *dataset_card.FILES]


@pytest.fixture(scope="module")
def sets(made) -> dict[str, set[str]]:
  """The documents of the corpus and of each output, read back from its files."""
  return {"corpus": set(scores_of(made, "small"))} | {name: documents_of(made, name) for name in OUTPUTS}


def test_the_ledger_is_that_of_stores_and_manifests(made, sets):
  rows = {row["name"]: row for row in read(made, "ledger")}
  assert list(rows) == [*SCORERS, *OUTPUTS]
  for name in rows:
    assert int(rows[name]["read"]) == sum(ROWS) == int(rows[name]["scored"]) + int(rows[name]["bad"])
    assert int(rows[name]["bad"]) == len(ROWS)
  assert {name: int(rows[name]["selected"]) for name in OUTPUTS} == {name: len(sets[name]) for name in OUTPUTS}
  by_input = read(made, "inputs")
  assert len(by_input) == len(OUTPUTS) * len(ROWS)
  assert sum(int(row["selected"]) for row in by_input if row["output"] == "few") == len(sets["few"])


def test_histograms_count_every_document_of_the_corpus_and_of_each_output(made, sets):
  """Against the outputs' own files. Kills the mutants: an output's documents by another one's threshold or without its
  quotas; the rejected of an output of rejected ones; rows of one store looked up in another."""
  rows = read(made, "scores")
  for scorer in SCORERS:
    found = scores_of(made, scorer)
    of_scorer = [row for row in rows if row["scorer"] == scorer]
    edges = np.array([float(row["from"]) for row in of_scorer] + [float(of_scorer[-1]["to"])])
    for name, documents in sets.items():
      values = np.clip([found[source]["score"] for source in documents], edges[0], edges[-1])
      assert [int(row[name]) for row in of_scorer] == np.histogram(values, edges)[0].tolist()


def test_tau_is_scipys_of_all_documents(made):
  """Kills the mutants: scorers in an order other than their names; scores of stores joined by place and not by row."""
  columns = {name: scores_of(made, name) for name in SCORERS}
  common = sorted(set.intersection(*map(set, columns.values())))
  rows = read(made, "tau")
  assert [row["scorer"] for row in rows] == SCORERS  # raters first, the smaller one first
  for row in rows:
    for other in SCORERS:
      values = [[columns[name][source]["score"] for source in common] for name in (row["scorer"], other)]
      assert float(row[other]) == pytest.approx(float(scipy.stats.kendalltau(*values).statistic), abs=1e-12)


def test_examples_are_what_their_groups_say(made, sets):
  """Kills the mutants: percentiles within the examples; kept and rejected swapped; documents far from the threshold; a
  mean that forgets a rater; the smallest rater taken for the largest; a document in two groups, or a copy of one beside
  it; texts and urls of other rows."""
  texts, urls = {}, {}
  for shard in range(len(ROWS)):
    for row, line in enumerate((made / f"corpus/part-{shard}.jsonl").read_text().splitlines()):
      if not line.endswith("<script>"):
        document = json.loads(line)
        texts[f"part-{shard}.jsonl#{row}"], urls[f"part-{shard}.jsonl#{row}"] = document["text"], document["url"]
  columns = {name: {source: of["score"] for source, of in scores_of(made, name).items()} for name in SCORERS}
  percentile = {
    name: {s: scipy.stats.percentileofscore(list(found.values()), score, "mean") for s, score in found.items()}
    for name, found in columns.items()
  }
  groups = collections.defaultdict(list)
  for row in read(made, "examples"):
    source = row["source"]
    groups[row["section"], row["group"]].append(source)
    for name in SCORERS:
      assert float(row[f"percentile by {name}"]) == pytest.approx(percentile[name][source])
      assert float(row[f"score by {name}"]) == columns[name][source]
    assert row["text"].removeprefix("'") == figures.legible(examples.cut(texts[source])) and row["url"] == urls[source]
  large, small = columns["large"], columns["small"]
  mean = {s: percentile["small"][s] + percentile["large"][s] for s in sets["corpus"]}
  rise = {s: percentile["large"][s] - percentile["small"][s] for s in sets["corpus"]}
  # A quota leaves out documents above the threshold, too; they are not just below it.
  threshold = json.loads((made / "few/manifest.json").read_text())["threshold"]["score"]
  below = {s for s in sets["corpus"] - sets["few"] if small[s] <= threshold}
  keys = {  # of each group that has an order: its key, its sign, and the documents that it is chosen from
    ("by small", "best"): (small, -1, sets["corpus"]),
    ("by small", "just above the threshold of few"): (small, 1, sets["few"]),
    ("by small", "just below the threshold of few"): (small, -1, below),
    ("by small", "worst"): (small, 1, sets["corpus"]),
    ("by large", "best"): (large, -1, sets["corpus"]),
    ("by large", "just above the threshold of best"): (large, 1, sets["best"]),
    ("by large", "just below the threshold of best"): (large, -1, sets["rest"]),
    ("by large", "worst"): (large, 1, sets["corpus"]),
    ("by density", "highest score"): (columns["density"], -1, sets["corpus"]),
    ("by density", "lowest score"): (columns["density"], 1, sets["corpus"]),
    (choices.PART, "higher by large than by small"): (rise, -1, sets["corpus"]),
    (choices.PART, "higher by small than by large"): (rise, 1, sets["corpus"]),
    (choices.AGREE, "high by all"): (mean, -1, sets["corpus"]),
    (choices.AGREE, "low by all"): (mean, 1, sets["corpus"]),
  }
  found = {name: documents for name, documents in groups.items() if name not in keys}
  for (_, name), documents in found.items():
    kept, _, left = name.removeprefix("in ").partition(", not in ")
    if name.startswith("not in "):
      kept, left = "corpus", name.removeprefix("not in ")
    assert documents and set(documents) <= sets[kept] - (sets[left] if left else set())
  pairs = {
    f"in {a}, not in {b}" for other in ("sparse", "few", "random") for a, b in (("best", other), (other, "best"))
  }
  kept = {f"{word} {name}" for name in ("sparse", "random") for word in ("in", "not in")}
  assert {name for section, name in found if section == choices.COMPARED} == pairs
  assert {name for section, name in found if section == choices.WITHOUT_THRESHOLD} == kept
  assert set(found) | set(keys) == set(groups)
  vectors = {s: tuple(columns[name][s] for name in SCORERS) for s in sets["corpus"]}
  shown, documents_shown = set(), []
  for name, documents in groups.items():
    if name in keys:
      key, sign, wanted = keys[name]
      first: dict[tuple, float] = {}
      for source in sorted(wanted - set(documents_shown), key=lambda s: sign * key[s]):
        if vectors[source] not in shown:
          first.setdefault(vectors[source], key[source])
      assert [key[source] for source in documents] == pytest.approx(list(first.values())[: choices.GROUP_SIZE])
    shown |= {vectors[source] for source in documents}
    documents_shown += documents
  assert len(set(documents_shown)) == len(documents_shown) == len(shown)


def test_lengths_and_domains_are_those_of_the_documents(made, sets):
  """Kills the mutants: the corpus's counts for an output's; a domain that counts in one file alone."""
  found = scores_of(made, "small")
  lengths, domains, means = (read(made, name) for name in ("lengths", "domains", "means"))
  for name, documents in sets.items():
    tokens = [found[source]["num_tokens"] for source in documents]
    (of_set,) = [row for row in means if row["documents of"] == name]
    assert (int(of_set["documents"]), int(of_set["tokens"])) == (len(documents), sum(tokens))
    for row in lengths[1:-1]:
      assert int(row[name]) == sum(int(row["from"]) <= length < int(row["to"]) for length in tokens)
    assert sum(int(row[name]) for row in lengths) == len(documents)
    counted = collections.Counter(found[source]["domain"] for source in documents)
    assert [int(row[name]) for row in domains] == [counted[row["domain"]] for row in domains]
    assert sum(counted.values()) == sum(int(row[name]) for row in domains)  # there are few enough


def test_the_news_are_those_of_the_documents(made, sets):
  """Kills the mutants: shares of the output's own total; tokens of the corpus for an output's; a threshold of another
  store, or for a random sample, which has none; the percentile of the documents above the threshold."""
  found = {name: scores_of(made, name) for name in SCORERS}
  rows = {row["output"]: row for row in read(made, "news")}
  assert list(rows) == list(OUTPUTS)
  tokens = {name: sum(found["small"][source]["num_tokens"] for source in sets[name]) for name in sets}
  for name, row in rows.items():
    assert float(row["% of documents"]) == pytest.approx(100 * len(sets[name]) / len(sets["corpus"]))
    assert float(row["% of tokens"]) == pytest.approx(100 * tokens[name] / tokens["corpus"])
    assert float(row["tokens a document after"]) == pytest.approx(tokens[name] / len(sets[name]))
    assert row["% near-copies before"] == ""  # there is no store of MinHash
  assert rows["random"]["threshold"] == "" and rows["best"]["scorer"] == "large"
  scores = [document["score"] for document in found["large"].values()]
  threshold = float(rows["best"]["threshold"])
  assert threshold == min(found["large"][source]["score"] for source in sets["best"])
  assert float(rows["best"]["percentile of the threshold"]) == pytest.approx(
    100 * sum(score < threshold for score in scores) / len(scores)
  )


def test_domains_that_gained_and_lost_most_are_those_of_the_table(made):
  """Kills the mutants: gains among the losses; the smallest first; a share of another output; a cell that is markup."""
  text = (made / "page/report.html").read_text()
  rows = read(made, "domains")
  for name in OUTPUTS:
    points = {row["domain"]: float(row[f"% of {name}"]) - float(row["% of corpus"]) for row in rows}
    for title, sign in (("Gained most", 1), ("Lost most", -1)):
      shown = re.search(rf'aria-label="{title}: {name}">.*?</table>', text, re.DOTALL)
      assert shown
      found = re.findall(r'<th scope="row">(.*?)</th>.*?>([+−][\d.]+)</td></tr>', shown[0], re.DOTALL)
      wanted = sorted((sign * value for value in points.values() if sign * value > 0), reverse=True)[:8]
      assert [float(value.replace("−", "-")) for _, value in found] == pytest.approx(
        [sign * of for of in wanted], abs=0.006
      )
      assert all(abs(points[html.unescape(of)] - float(value.replace("−", "-"))) < 0.006 for of, value in found)
      assert found and "<b>" not in shown[0]


def test_the_card_of_the_outputs_says_what_they_are(made, sets):
  """The hub's front matter is YAML. Kills the mutants: counts of another output; tokens by
  another scorer's vocabulary; a glob that matches no shard, or the
  shards of a format that the hub does not read; a picture that is not there; a command that is not the manifest's; a
  licence that the hub does not know; no line to fill it in."""
  _, front, body = (made / "page" / dataset_card.CARD).read_text().split("---\n", 2)
  fields = yaml.safe_load(front)
  assert not {"language", "license"} & set(fields)
  filled, number = re.subn(r"^# (language|license): \.\.\.  # \w", r"\1: [en]  # ", front, flags=re.MULTILINE)
  assert number == 2 and yaml.safe_load(filled) == {"language": ["en"], "license": ["en"]} | fields
  assert "fill in `language` and `license`" in body
  assert fields["size_categories"] == ["n<1K"] and {"winnow", "ask_llm", "density", "random"} <= set(fields["tags"])
  assert set(fields["task_categories"]) == {"text-generation", "fill-mask"}
  for entry in fields["configs"]:
    (data,) = entry["data_files"]
    assert data["split"] == "train"
    shards = [
      pathlib.Path(of["file"])
      for of in json.loads((made / entry["config_name"] / "manifest.json").read_text())["shards"]
    ]
    assert sorted(made.glob(data["path"])) == sorted(made / entry["config_name"] / shard for shard in shards)
  assert [entry["config_name"] for entry in fields["configs"]] == ["sparse", "few"]
  tokens_of = {name: {s: of["num_tokens"] for s, of in scores_of(made, name).items()} for name in ("small", "large")}
  for name in OUTPUTS:
    row, counted = [line for line in body.splitlines() if line.startswith(f"| `{name}` | ")]
    row = row.split(" | ")
    manifest = json.loads((made / name / "manifest.json").read_text())
    assert [int(of.replace(",", "")) for of in row[1:5]] == [sum(ROWS), len(ROWS), len(sets["corpus"]), len(sets[name])]
    # Where an output's own scorer counts no tokens, the first scorer that does has counted them.
    counter = "large" if name in ("best", "rest") else "small"
    tokens = [sum(tokens_of[counter][source] for source in sets[of]) for of in ("corpus", name)]
    assert counted.split(" | ")[1:3] == [f"{of:,}" for of in tokens]
    assert counted.split(" | ")[4] == f"`{made}/{counter}` |"
    assert f"\n{shlex.join(manifest['command'])}\n" in body
    assert ("datasets.load_dataset" in body, f'"{name}", split="train")' in body) == (True, name in ("sparse", "few"))
  pictures = re.findall(r"!\[.+?\]\((.+?)\)", body)
  assert set(pictures) == set(dataset_card.FILES[1:])
  assert all((made / "page" / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_a_report_of_scores_alone_has_no_card(made):
  assert make(made, OUTPUTS, "--report=changing") == 0 and (made / "changing" / dataset_card.CARD).exists()
  command = ["report", "--scores=scores", "--report=changing", "--overwrite", "--direct_num_workers=1"]
  assert run_in(made, command) == 0
  assert {path.name for path in (made / "changing").iterdir()} == set(files()) - set(dataset_card.FILES)


def test_copies_and_bad_documents_are_counted(made):
  duplicates = {row["output"]: row for row in read(made, "duplicates")}
  for name in OUTPUTS:
    texts = []
    for path in (made / name).glob("*-train*"):
      kind = json.loads((made / name / "manifest.json").read_text())["output_format"]
      texts += [text for table in FORMATS[kind].read(str(path)) for text in table["text"].to_pylist()]
    assert int(duplicates[name]["documents looked at"]) == len(texts)
    assert int(duplicates[name]["exact copies of others"]) == len(texts) - len(set(texts))
  assert sum(int(row["exact copies of others"]) for row in duplicates.values()) > 0
  summary = json.loads((made / "scores/small/summary.json").read_text())
  reasons = {row["reason"]: int(row["documents"]) for row in read(made, "dead_letters") if row["scorer"] == "small"}
  assert reasons == summary["reasons"]
  assert {row["source"] for row in read(made, "bad")} == {f"part-{s}.jsonl#{rows // 2}" for s, rows in enumerate(ROWS)}


def test_a_report_is_made_once_and_is_the_same_every_time(made, capsys):
  """Kills the mutants: dates, ids or orders by chance; a report that is replaced without a word."""
  before = content(made)
  assert make(made) == 2
  assert "report.html exists already" in capsys.readouterr().err
  assert make(made, OUTPUTS, "--overwrite") == 0
  assert content(made) == before


def test_small_windows_and_samples_change_nothing_but_the_sample(made, monkeypatch):
  """The counts are exact whatever the windows and the sample. Kills the mutants: rows at a window's border lost or
  counted twice; a sample larger than asked for; a sample that is drawn from the first rows."""
  before = {name: (made / f"page/{name}.csv").read_bytes() for name in report.FIGURES}
  monkeypatch.setattr(passes, "_WINDOW_ROWS", 7)
  assert make(made, OUTPUTS, "--report=windows") == 0
  assert {name: (made / f"windows/{name}.csv").read_bytes() for name in report.FIGURES} == before
  namespace = parsing.parse(command_names.REPORT, ["--scores=scores", "--report=none", f"--output={made}/best"])[0]
  monkeypatch.chdir(made)
  sources = material.find(namespace)
  whole = passes.draw_sample(sources, 0)
  assert len(whole.table) == sum(ROWS) - len(ROWS)
  sample = passes.draw_sample(sources, 0, most=100)
  assert len(sample.table) == 100
  hash_N, of_sample_N = whole.table["hash"].to_numpy(), sample.table["hash"].to_numpy()
  assert sorted(of_sample_N) == sorted(hash_N)[:100]
  places = [hash_N.tolist().index(of) for of in of_sample_N.tolist()]
  assert (whole.scores_SN[:, places] == sample.scores_SN).all() and (whole.kept_ON[:, places] == sample.kept_ON).all()
  assert (passes.draw_sample(sources, 1, most=100).table["hash"].to_numpy() != of_sample_N).any()
  scales = figures.choose_axes(sources, sample)
  questions = figures.ask(sample, choices.choose(sources, sample), scales)
  counts = passes.count(sources, questions)
  assert counts.documents_S.tolist() == [len(whole.table)] * 3 and counts.scores_CSB[0].sum() == 3 * len(whole.table)


def test_without_its_input_a_report_says_so(made, tmp_path, capsys):
  """Kills the mutants: texts of a file that has changed since; a failure where only texts are missing."""
  for name in ("scores", "best", "corpus"):
    shutil.copytree(made / name, tmp_path / name)
  given = f"--input={tmp_path}/corpus/*.jsonl"
  command = ["report", "--scores=scores", "--output=best", "--direct_num_workers=1"]
  assert run_in(tmp_path, [*command, "--report=moved", given]) == 0
  path = tmp_path / "corpus/part-0.jsonl"
  path.write_bytes(path.read_bytes().replace(b"house", b"mouse"))
  capsys.readouterr()
  assert run_in(tmp_path, [*command, "--report=changed", given]) == 2
  assert "the input is not what" in capsys.readouterr().err and not (tmp_path / "changed").exists()
  shutil.rmtree(tmp_path / "scores/small")
  request = tmp_path / "scores/large/input.json"
  request.write_text(request.read_text().replace(str(made), str(tmp_path)))
  assert run_in(tmp_path, [*command, "--report=without"]) == 0
  assert "winnow: the report has no texts: the input is not what" in capsys.readouterr().err
  assert "The texts could not be read: the input is not what" in (tmp_path / "without/report.html").read_text()


def test_what_cannot_be_reported_is_refused(made, tmp_path, capsys):
  """In a sentence, and before anything is written."""
  for name in ("scores", "best"):
    shutil.copytree(made / name, tmp_path / name)

  def refused(*flags: str) -> str:
    before = content(tmp_path)
    assert run_in(tmp_path, ["report", "--report=page", "--direct_num_workers=1", *flags]) == 2
    assert content(tmp_path) == before
    return capsys.readouterr().err

  assert run_in(tmp_path, ["report", "--scores=scores"]) == 2
  assert "--report= must be given" in capsys.readouterr().err
  assert "--scores=nowhere does not exist; name the folder that winnow score wrote to" in refused("--scores=nowhere")
  assert "--output=scores is a folder of score stores (" in refused("--scores=scores", "--output=scores")
  assert "--report=hf://x: hf:// can be read only" in refused("--scores=scores", "--report=hf://x")
  manifest = tmp_path / "best/manifest.json"
  whole = manifest.read_text()
  manifest.write_text(whole.replace('"selected": 89', '"selected": 88'))
  assert "holds 88 documents by its manifest.json, but 89 by its scores" in refused("--scores=scores", "--output=best")
  manifest.write_text(whole.replace('"selected": 89', '"selected": "89"'))
  assert "manifest.json is damaged (ValueError: a count is not a number)" in refused("--scores=scores", "--output=best")
  manifest.write_text(whole.replace('"output_format": "tfrecord"', '"output_format": "../x"'))
  assert "manifest.json is damaged (ValueError: the format '../x' is unknown)" in refused(
    "--scores=scores", "--output=best"
  )
  manifest.write_text(whole.replace('"command": [', '"command": "", "was": ['))
  assert "manifest.json is damaged (ValueError: it has no shards, inputs or command)" in refused(
    "--scores=scores", "--output=best"
  )
  manifest.write_text(whole.replace('"versions": {', '"versions": [], "were": {'))
  assert "manifest.json is damaged (ValueError: it has no split or versions)" in refused(
    "--scores=scores", "--output=best"
  )
  path = tmp_path / "scores/small/summary.json"
  summary = json.loads(path.read_text())
  summary["shards"][0]["scored"] -= 1
  del summary["seal"]
  path.write_bytes(fingerprints.sealed(summary | {"scored": summary["scored"] - 1}))
  assert "450 documents read, 446 scored and 3 bad, but 447 have scores" in refused("--scores=scores")
  path = tmp_path / "scores/large/shards/part-1.jsonl.parquet"
  path.write_bytes(path.read_bytes()[:-60])
  manifest.write_text(whole)
  assert f"{path} is missing or damaged" in refused("--scores=scores", "--output=best")


def test_stores_that_are_not_complete_or_of_another_corpus_are_left_out(made, tmp_path, capsys):
  """Kills the mutants: rows of two corpora side by side; one of them taken by chance; a count for a score of 0."""
  for name in ("scores", "best", "corpus"):
    shutil.copytree(made / name, tmp_path / name)
  command = ["report", "--scores=scores", "--report=page", "--direct_num_workers=1"]
  other = [f"--input={tmp_path}/corpus/part-2.jsonl", f"--embeddings={tmp_path}/corpus/part-2.npy"]
  score = ["score", "--scorer=density", *other, "--scores=scores", "--name=other", "--sketch_rows=9"]
  assert run_in(tmp_path, [*score, "--max_bad_fraction=0.1", "--embedding_name=two", "--direct_num_workers=1"]) == 0
  (tmp_path / "scores/small/summary.json").unlink()
  counting = [f"--input={tmp_path}/corpus/*.jsonl", "--scores=scores", "--max_bad_fraction=0.1"]
  drawing = ["curate", "--sampler=random", *counting, "--rate=0.3", "--output=counted", "--direct_num_workers=1"]
  assert run_in(tmp_path, drawing) == 0
  capsys.readouterr()
  assert run_in(tmp_path, command) == 2
  assert "has stores of several corpora (density, large, random | other)" in capsys.readouterr().err
  assert run_in(tmp_path, [*command, "--output=best,counted"]) == 0
  page = (tmp_path / "page/report.html").read_text()
  assert "small is not complete" in page and "other is of another corpus" in page and "two holds embeddings" in page
  assert "random holds a count and no scores" in page
  assert [row["scorer"] for row in read(tmp_path, "tau")] == ["large", "density"]
