"""`winnow curate --proxy`: end to end against the scores of all documents, stopped in every phase, and refused."""

import json
import pathlib
import re
import shutil

import corpora
import numpy as np
import pytest
from running import content, run_in, shards_of, take_turns

from curation.selection import cascade, certificates, hashing, selection
from pipelines.output import writing
from pipelines.scoring import scoring
from pipelines.selection import cascade as asking

BIG_ROWS, SMALL_ROWS = 700, 60
ONE, TWO = "--direct_num_workers=1", "--direct_num_workers=2"
PROMISE = ["--recall=0.8", "--confidence=0.8", "--audit=200"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
  """A corpus, a rater, and a proxy: the same rater that reads less of each text."""
  folder = tmp_path_factory.mktemp("cascade")
  corpora.write_corpus(folder / "corpus", big_rows=BIG_ROWS, small_rows=SMALL_ROWS)
  corpora.write_model(folder / "rater")
  (folder / "prompt.txt").write_text(corpora.PROMPT)
  assert run_in(folder, ["score", *common(folder), "--max_input_tokens=20", "--name=proxy", ONE]) == 0
  return folder


def common(place: pathlib.Path) -> list[str]:
  flags = [f"--input={place}/corpus/*", f"--model={place}/rater", f"--prompt_file={place}/prompt.txt"]
  return [*flags, "--scores=scores", "--block_rows=50", "--max_bad_fraction=0.1"]


def curate(place: pathlib.Path, *more: str) -> list[str]:
  return ["curate", *common(place), "--max_input_tokens=32", "--proxy=proxy", *PROMISE, "--output=out", *more]


def begun(place: pathlib.Path, name: str, proxy: str = "proxy") -> pathlib.Path:
  """Returns a new folder with the proxy's scores."""
  shutil.copytree(place / "scores" / proxy, place / name / "scores" / proxy)
  return place / name


@pytest.fixture(scope="module")
def undisturbed(place) -> pathlib.Path:
  folder = begun(place, "undisturbed")
  assert run_in(folder, [*curate(place), "--rate=0.2", "--num_shards=3", ONE]) == 0
  return folder


@pytest.fixture(scope="module")
def truth(place) -> dict[tuple[str, int], float]:
  assert run_in(place, ["score", *common(place), "--max_input_tokens=32", "--name=truth", ONE]) == 0
  return scores_of(place, "truth")


def scores_of(folder: pathlib.Path, name: str) -> dict[tuple[str, int], float]:
  table = shards_of(folder / "scores" / name)
  documents = zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
  return dict(zip(documents, table["score"].to_pylist(), strict=True))


def ranks_of(scores: dict[tuple[str, int], float]) -> dict[tuple[str, int], int]:
  """Returns the rank of each document: its score and its tie hash, computed one by one."""
  return {
    (shard, row): int(selection.order_key(np.array([score]))[0]) << 64
    | int(selection.tie_hashes(0, shard, np.array([row]))[0])
    for (shard, row), score in scores.items()
  }


def drawn(folder: pathlib.Path, name: str = "out") -> set[tuple[str, int]]:
  import tensorflow_datasets as tfds

  examples = tfds.as_numpy(tfds.builder_from_directory(str(folder / name)).as_dataset(split="train"))
  sources = [example["source"].decode().rpartition("#") for example in examples]
  return {(shard, int(row)) for shard, _, row in sources}


def best(ranks: dict[tuple[str, int], int], number: int) -> set[tuple[str, int]]:
  return set(sorted(ranks, key=lambda document: ranks[document], reverse=True)[:number])


def audit_of(proxy: dict[tuple[str, int], float], number: int) -> set[tuple[str, int]]:
  request = asking.audit_request(0, number)
  assert request.seed == 11_780_085_875_964_931_452  # another one than that of a random sample
  hashes = {
    (shard, row): int(hashing.hash_documents("random", request.seed, shard, np.array([row]))[0]) for shard, row in proxy
  }
  return best(hashes, number)


def certificate_of(folder: pathlib.Path, name: str = "out") -> dict:
  return json.loads((folder / name / "manifest.json").read_text())["cascade"]


def test_it_asks_about_the_audit_and_all_from_the_threshold_on(undisturbed, truth):
  """Kills: an audit by the hash of a random sample; `>` for `≥` at τ, or ties of the proxy that fall by place; k of
  those that were asked; a score of the audit beside another document; a certificate of other numbers.
  """
  proxy = scores_of(undisturbed, "proxy")
  audit, proxy_ranks = audit_of(proxy, 200), ranks_of(proxy)
  assert scores_of(undisturbed, "ask_llm_rater_audit_200") == {document: truth[document] for document in audit}
  wanted = int(0.2 * len(proxy) + 0.5)
  documents = sorted(audit)
  arrays = ([ranks[document] >> 64 for document in documents] for ranks in (ranks_of(truth), proxy_ranks))
  ties = [proxy_ranks[document] & (1 << 64) - 1 for document in documents]
  certificate = certificates.certify(
    cascade.Audit(*(np.array(column, np.uint64) for column in (*arrays, ties))),
    documents=len(proxy),
    audited=200,
    wanted=certificates.Wanted(wanted),
    promise=cascade.Promise("0.8", "0.8"),
  )
  record = certificate_of(undisturbed)
  assert certificates.Certificate.from_json(record["certificate"]) == certificate
  asked = audit | {document for document, rank in proxy_ranks.items() if rank >= certificate.floor}
  scored = scores_of(undisturbed, f"ask_llm_rater_cascade_{wanted}")
  assert scored == {document: truth[document] for document in asked}
  assert (record["asked"], record["left_out"]) == (len(asked), len(proxy) - len(asked))
  assert wanted < len(asked) < 0.9 * len(proxy)
  assert drawn(undisturbed) == best(ranks_of(scored), wanted)
  kept = drawn(undisturbed) & best(ranks_of(truth), wanted)
  assert len(kept) >= 0.8 * wanted  # here, as in 80 of 100 corpora


def test_nothing_is_asked_twice_and_the_share_is_said_first(place, undisturbed, monkeypatch, capsys):
  """Kills: an audit that is asked again with the rest; a share that is said when all is asked."""
  folder, asked = begun(place, "counted"), []
  run = scoring.bisection.run

  def counted(scorer, block, *rest, **options):
    error = capsys.readouterr().err
    asked.append((len(block.documents), "the cascade asks about" in error))
    return run(scorer, block, *rest, **options)

  monkeypatch.setattr(scoring.bisection, "run", counted)
  assert run_in(folder, [*curate(place), "--rate=0.2", "--num_shards=3", ONE]) == 0
  record = certificate_of(folder)
  assert sum(number for number, _ in asked) == record["asked"]
  before = 0
  for number, is_said in asked:
    if is_said:
      break
    before += number
  assert before == 200
  assert f"about {record['asked']:,} of" in capsys.readouterr().out
  assert content(folder) == content(undisturbed)


PHASES = ("audit", "certify", "ask", "settle", "rest", "output")


@pytest.mark.parametrize(
  "phases", [("certify", "rest"), pytest.param(PHASES, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_a_run_that_was_stopped_gives_the_same(place, undisturbed, monkeypatch, phases):
  """Kills: a certificate that depends on how far a run came; bits of what is asked that are taken as they are."""
  folder = begun(place, f"stopped_{len(phases)}")
  for phase in phases:
    with monkeypatch.context() as patch:
      _stop_in(patch, phase)
      assert run_in(folder, [*curate(place), "--rate=0.2", "--num_shards=3", ONE]) != 0
    assert not (folder / "out/manifest.json").exists()
    if phase == "rest":
      (bits,) = [
        path for path in folder.glob("scores/proxy/selected/*/rows/big.jsonl.gz") if _has_certificate(path.parents[1])
      ]
      data = bytearray(bits.read_bytes())
      data[-9] ^= 1
      bits.write_bytes(data)
  assert run_in(folder, [*curate(place), "--rate=0.2", "--num_shards=3", ONE]) == 0
  assert content(folder) == content(undisturbed)


def _has_certificate(folder: pathlib.Path) -> bool:
  return "certificate" in json.loads((folder / "survivors.json").read_text())


def _stop_in(patch: pytest.MonkeyPatch, phase: str) -> None:
  """Makes a run stop in a phase, after the first block or shard of it."""
  methods = {"certify": "certify", "settle": "settle_asked", "ask": "ask_shard"}
  seen = []

  def stop(*_: object, **__: object):
    raise KeyboardInterrupt

  if phase in ("certify", "settle"):
    patch.setattr(asking.Asked, methods[phase], stop)
  elif phase == "ask":
    ask = asking.Asked.ask_shard
    patch.setattr(
      asking.Asked, "ask_shard", lambda *given: stop() if len(seen) > 2 else (seen.append(1), ask(*given))[1]
    )
  elif phase == "output":
    patch.setattr(writing, "write_shard", stop)
  else:
    run, wanted = scoring.bisection.run, 2 if phase == "audit" else 3

    def stopped(scorer, block, *rest, **options):
      seen.append(1)
      if len(seen) > wanted:
        raise KeyboardInterrupt
      return run(scorer, block, *rest, **options)

    patch.setattr(scoring.bisection, "run", stopped)


@pytest.mark.long
@pytest.mark.local_runner
def test_two_processes_give_the_same(place, undisturbed):
  folder = begun(place, "two")
  assert run_in(folder, [*curate(place), "--rate=0.2", "--num_shards=3", TWO]) == 0
  assert content(folder) == content(undisturbed)


def test_a_threshold_wants_all_above_it(place, truth):
  """Kills: a threshold that counts documents below it; a certificate by the best of the audit."""
  folder = begun(place, "threshold")
  threshold = sorted(truth.values())[-400]
  assert run_in(folder, [*curate(place), f"--threshold={threshold!r}", ONE]) == 0
  record, scored = certificate_of(folder), scores_of(folder, "ask_llm_rater_cascade")
  positives = {document for document, score in truth.items() if score >= np.float32(threshold)}
  assert drawn(folder) == positives & scored.keys()
  assert record["certificate"]["best"] == len(positives & audit_of(scores_of(folder, "proxy"), 200))
  assert len(drawn(folder)) >= 0.8 * len(positives)
  assert run_in(folder, ["verify", "out", ONE]) == 0


@pytest.mark.long
def test_too_few_above_a_threshold_are_refused_after_the_audit(place, capsys):
  """In one sentence that says how many are needed. Kills: a threshold from two documents."""
  folder = begun(place, "few")
  assert run_in(folder, [*curate(place), "--threshold=0", ONE]) == 1
  error = capsys.readouterr().err
  assert "the audit has 0 documents at or above the threshold, and 8 are needed" in error and "Traceback" not in error
  assert not (folder / "out/manifest.json").exists()


@pytest.mark.long
def test_as_many_are_asked_as_are_wanted_by_a_perfect_proxy(place, truth):
  """Kills: a sample that cannot be drawn, since fewer documents were asked than are wanted."""
  folder = begun(place, "perfect", "truth")
  assert run_in(folder, [*curate(place, "--proxy=truth"), "--rate=0.5", ONE]) == 0
  assert drawn(folder) == best(ranks_of(truth), int(0.5 * len(truth) + 0.5))


def test_verify_recomputes_the_certificate(undisturbed, tmp_path, capsys):
  """Kills: a certificate that is believed; a proxy that has changed; a store that lacks what is asked."""
  shutil.copytree(undisturbed, tmp_path / "copy")
  assert run_in(tmp_path / "copy", ["verify", "out", ONE]) == 0
  assert "the certificate of the cascade is the one that the scores give" in capsys.readouterr().out
  path = tmp_path / "copy/out/manifest.json"
  manifest = json.loads(path.read_text())
  for change, told in (
    (("certificate", "spared", 99), "the cascade's certificate.spared is 99 in the manifest"),
    (("certificate", "recall", "0.9"), "the cascade's asked_from is"),
    (("asked", None, 5), "the cascade's asked is 5 in the manifest"),
  ):
    name, field, value = change
    changed = json.loads(path.read_text())
    if field is None:
      changed["cascade"][name] = value
    else:
      changed["cascade"][name][field] = value
    path.write_text(json.dumps(changed))
    assert run_in(tmp_path / "copy", ["verify", "out", ONE]) == 1
    assert re.search(told, capsys.readouterr().err)
    path.write_text(json.dumps(manifest))
  shutil.rmtree(tmp_path / "copy/scores/proxy")
  assert run_in(tmp_path / "copy", ["verify", "out", ONE]) == 2
  assert "the cascade's proxy, the store proxy, is not beside" in capsys.readouterr().err


def test_report_shows_the_certificate_and_the_curve(place, undisturbed, tmp_path):
  """Kills: a report that knows of no cascade, or that takes the documents that were asked for the corpus."""
  flags = [f"--scores={undisturbed}/scores", f"--output={undisturbed}/out", f"--input={place}/corpus/*"]
  assert run_in(tmp_path, ["report", *flags, "--report=page"]) == 0
  page, record = (tmp_path / "page/report.html").read_text(), certificate_of(undisturbed)
  assert f"The cascade asks about {record['asked']:,} of {record['certificate']['documents']:,} documents" in page
  rows = (tmp_path / "page/cascade.csv").read_text().splitlines()
  assert len(rows) == 1 + len(record["certificate"]["curve"]) and rows[-1] == "out,100.0,100.0"
  ledger = (tmp_path / "page/ledger.csv").read_text().splitlines()
  assert any(row.startswith("proxy,") and f",{record['certificate']['documents']}," in row for row in ledger)


def test_explain_says_what_the_cascade_left_out(undisturbed, capsys):
  proxy = scores_of(undisturbed, "proxy")
  scored = scores_of(undisturbed, f"ask_llm_rater_cascade_{certificate_of(undisturbed)['certificate']['wanted']}")
  shard, row = next(document for document in proxy if document not in scored)
  assert run_in(undisturbed, ["explain", f"{shard}#{row}", "--scores=scores", "--output=out"]) == 0
  told = capsys.readouterr().out
  assert "out: not selected: left out by the cascade, so that the rater was not asked about it" in told
  assert f"its proxy score, {proxy[shard, row]:.6g}, is below the threshold" in told


@pytest.mark.long
@pytest.mark.local_runner
def test_another_rate_takes_the_same_audit(place, undisturbed):
  """In two parts, one after the other. Kills: an audit for each rate; parts that certify different thresholds."""
  folder = place / "again"
  shutil.copytree(undisturbed, folder)
  before = content(folder / "scores/ask_llm_rater_audit_200")
  take_turns(folder, [*curate(place, "--output=more"), "--rate=0.25"], 2)
  assert content(folder / "scores/ask_llm_rater_audit_200") == before
  assert len(list((folder / "scores").glob("*_audit_*"))) == 1
  assert run_in(folder, ["verify", "more", ONE]) == 0
  alone = begun(place, "alone")
  assert run_in(alone, [*curate(place, "--output=more"), "--rate=0.25", ONE]) == 0
  name = f"ask_llm_rater_cascade_{certificate_of(alone, 'more')['certificate']['wanted']}/shards"
  assert content(folder / "scores" / name) == content(alone / "scores" / name)
  assert drawn(folder, "more") == drawn(alone, "more")


def test_estimate_says_the_share_once_there_is_an_audit(place, undisturbed, capsys):
  """Kills: an estimate of what all documents cost, in silence."""
  command = [*curate(place, "--output=other"), "--rate=0.2", "--estimate", ONE]
  before = content(undisturbed)
  assert run_in(undisturbed, command) == 0
  share = certificate_of(undisturbed)["certificate"]["expected_share"]
  assert f"about {share:.1%} of" in capsys.readouterr().out
  assert content(undisturbed) == before
  assert run_in(begun(place, "unaudited"), command) == 0
  assert "known once its audit is scored" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    (["--rate=0.2", "--audit=5"], r"--audit=5 cannot certify --recall=0.8 .* the least audit that can is --audit=\d+"),
    (["--rate=0.2", "--audit=100000"], "--audit=100000 is not between 1 and"),
    (["--rate=0.2", "--recall=1.5"], "--recall=1.5 is not in"),
    (["--rate=0.2", "--proxy=nothing"], "--proxy=nothing is no score store, and --scores=scores has: proxy"),
    (["--rate=0.2", "--proxy=ask_llm_rater_audit_200"], "has scores of an audit, of what another cascade asked"),
    (["--num_tokens=500"], "--num_tokens with --proxy"),
    (["--rate=0.2", "--rejected=left"], "--rejected with --proxy"),
    (["--rate=0.2", "--method=bottom_k"], "--method=bottom_k with --proxy"),
    (["--rate=0.2", "--sampler=random"], "--proxy finds the best documents"),
    (["--rate=0.2", "--block_rows=60"], "block_rows"),
  ],
)
def test_what_a_cascade_cannot_do_is_refused(place, undisturbed, capsys, flags, told):
  before = content(undisturbed)
  if "--proxy=nothing" in flags:
    flags = [*flags, f"--scores={place}/scores"]
    told = told.replace("--scores=scores has", ".* has")
  assert run_in(undisturbed, [*curate(place), "--output=other", *flags, ONE]) == 2
  assert re.search(told, capsys.readouterr().err)
  assert content(undisturbed) == before


def test_flags_of_a_cascade_need_a_proxy(place, undisturbed, capsys):
  """Kills: a promise of a recall that nothing keeps."""
  command = [argument for argument in curate(place) if "--proxy" not in argument]
  assert run_in(undisturbed, [*command, "--rate=0.2", "--output=other", ONE]) == 2
  assert "--recall is for a cascade; add --proxy=, or leave it out" in capsys.readouterr().err
