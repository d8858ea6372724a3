"""The threshold of a cascade against every possible audit of small corpora, and the tails against SciPy."""

import itertools

import numpy as np
import pytest
import scipy.stats

from curation.errors import WinnowError
from curation.selection import cascade, certificates, selection, tails


def make_audit(scores_M, proxies_M, ties_M) -> cascade.Audit:
  return cascade.Audit(selection.order_key(scores_M), selection.order_key(proxies_M), np.asarray(ties_M, np.uint64))


def lost(scores_N, proxies_N, ties_N, taken: list[int], wanted: np.ndarray, rank: int) -> int:
  """Counts the wanted documents that are neither from τ on nor in the audit."""
  asked_N = selection.is_selected(rank, selection.order_key(proxies_N), ties_N)
  asked_N[taken] = True
  return int((~asked_N[wanted]).sum())


def failures(scores_N, proxies_N, ties_N, *, wanted: int, audited: int, promise: cascade.Promise) -> float:
  """Returns the share of all audits of a corpus after which more of the best are lost than was promised."""
  bounds = cascade.num_best(len(scores_N), wanted, audited, promise)
  assert bounds is not None
  best = np.lexsort((ties_N, selection.order_key(scores_N)))[::-1][:wanted]
  failed = total = 0
  for taken in map(list, itertools.combinations(range(len(scores_N)), audited)):
    rank = cascade.find_threshold(make_audit(scores_N[taken], proxies_N[taken], ties_N[taken]), bounds)
    failed += lost(scores_N, proxies_N, ties_N, taken, best, rank) > promise.losses(wanted)
    total += 1
  return failed / total


def corpora(num: int, wanted: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Returns scores and proxies of small corpora: the kinds of proxies that could break a promise."""
  scores_N = np.arange(num, 0, -1.0)
  is_best_N = np.arange(num) < wanted
  return {
    "perfect": (scores_N, scores_N),
    "opposite": (scores_N, -scores_N),
    "opposite among the best": (scores_N, np.where(is_best_N, num - scores_N + num, -scores_N)),
    "the best in the middle": (scores_N, np.where(is_best_N, -scores_N, np.where(np.arange(num) % 2, 99, -99))),
    "constant": (scores_N, np.zeros(num)),
    "two values": (scores_N, np.where(np.arange(num) % 3, 1.0, 0.0)),
    "equal scores": (np.zeros(num), np.arange(num) % 5.0),
  }


@pytest.mark.parametrize("name", corpora(14, 8))
@pytest.mark.parametrize("recall,confidence", [("0.5", "0.6"), ("0.7", "0.3")])
def test_no_corpus_breaks_the_promise_in_more_of_all_audits_than_the_risk(name, recall, confidence):
  """Kills: c one too large; j from the quantile of the other side; the whole risk for both; ties between proxies or
  scores that fall by place; a τ that leaves its own document out.
  """
  scores_N, proxies_N = corpora(14, 8)[name]
  ties_N = np.random.default_rng(7).permutation(14).astype(np.uint64)
  promise = cascade.Promise(recall, confidence)
  assert failures(scores_N, proxies_N, ties_N, wanted=8, audited=7, promise=promise) <= promise.risk + 1e-12


@pytest.mark.parametrize(
  "documents,wanted,audited", [(200, 40, 110), (5000, 500, 900), (364_000_000, 36_400_000, 20_000)]
)
def test_bounds_are_the_largest_and_smallest_that_the_tails_allow(documents, wanted, audited):
  """Kills: c or j off by one in either direction; the risk not halved; a binomial tail for the hypergeometric."""
  promise = cascade.Promise("0.9", "0.9")
  bounds = cascade.num_best(documents, wanted, audited, promise)
  assert bounds is not None
  losses = wanted // 10

  def below(spared):
    return scipy.stats.hypergeom.cdf(spared, documents, losses + 1 + spared, audited)

  def above(best):  # P(Y ≥ best - c)
    others = wanted - losses - 1 - bounds.spared
    return scipy.stats.hypergeom.sf(best - bounds.spared - 1, documents, others, audited)

  assert below(bounds.spared) <= 0.05 < below(bounds.spared + 1)
  assert above(bounds.best) <= 0.05 < above(bounds.best - 1)


def test_known_positives_take_the_whole_risk():
  """Kills: the risk halved, c off by one, or no limit by Hoeffding's condition."""
  promise = cascade.Promise("0.9", "0.95")
  for positives in (100, 1000):
    spared = cascade.spared_positives(positives, promise)
    assert scipy.stats.binom.cdf(spared, positives, 0.1) <= 0.05 < scipy.stats.binom.cdf(spared + 1, positives, 0.1)
  assert cascade.spared_positives(400, cascade.Promise("0.5", "0.01")) == 199
  least = cascade.least_positives(promise)
  assert cascade.spared_positives(least, promise) >= 0 > cascade.spared_positives(least - 1, promise)


def test_known_positives_are_kept_in_all_but_the_risk_of_all_audits():
  """Kills: τ among documents that are not wanted; `>` in place of `≥` at the rater's threshold."""
  num, positives = 14, 9
  ties_N = np.random.default_rng(3).permutation(num).astype(np.uint64)
  scores_N = np.where(np.arange(num) < positives, 1.0, 0.0)
  floor = int(selection.order_key(np.array([1.0]))[0]) << 64
  promise = cascade.Promise("0.5", "0.6")
  for proxies_N in (np.arange(num) % 4.0, np.arange(num, 0, -1.0), np.zeros(num)):
    failed = total = 0
    for taken in map(list, itertools.combinations(range(num), 8)):
      audit = make_audit(scores_N[taken], proxies_N[taken], ties_N[taken])
      total += 1
      try:
        rank, bounds = cascade.find_threshold_of_positives(audit, floor, promise)
      except WinnowError:
        continue
      assert bounds.best == sum(place < positives for place in taken)
      failed += lost(scores_N, proxies_N, ties_N, taken, np.arange(positives), rank) > promise.losses(positives)
    assert failed / total <= promise.risk


@pytest.mark.parametrize("values", [3, 1000])
def test_threshold_is_the_document_of_the_best_with_c_others_below(values):
  """Kills: τ one place off; ties between scores, or between proxies, that fall by place instead of by hash."""
  generator = np.random.default_rng(values)
  scores_M, proxies_M = generator.integers(0, values, (2, 300)).astype(float)
  ties_M = generator.permutation(300).astype(np.uint64)
  documents = sorted(zip(scores_M, ties_M, selection.order_key(proxies_M), strict=True), reverse=True)
  for best, spared in ((40, 7), (150, 0), (300, 299)):
    chosen = sorted((int(key) << 64) | int(tie) for _, tie, key in documents[:best])
    audit = make_audit(scores_M, proxies_M, ties_M)
    assert cascade.find_threshold(audit, cascade.Bounds(best, spared)) == chosen[spared]
  assert cascade.find_threshold(audit, cascade.Bounds(3, 5)) == 0


@pytest.mark.parametrize("correlation", [0.5, 0.9])
@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_simulated_audits_keep_the_promise_and_ask_little(correlation, rate):
  """200 audits of 20,000 documents. Kills: τ at another place than c; and an audit that saves nothing."""
  num, audited, promise = 20_000, 4_000, cascade.Promise()
  generator = np.random.default_rng(int(100 * (correlation + rate)))
  proxies_N = generator.standard_normal(num)
  scores_N = correlation * proxies_N + np.sqrt(1 - correlation**2) * generator.standard_normal(num)
  ties_N = generator.permutation(num).astype(np.uint64)
  wanted = int(rate * num)
  best = np.argsort(-scores_N)[:wanted]
  bounds = cascade.num_best(num, wanted, audited, promise)
  assert bounds is not None
  failed, shares = 0, []
  for _ in range(200):
    taken = generator.choice(num, audited, replace=False)
    rank = cascade.find_threshold(make_audit(scores_N[taken], proxies_N[taken], ties_N[taken]), bounds)
    failed += lost(scores_N, proxies_N, ties_N, taken, best, rank) > promise.losses(wanted)
    shares.append(selection.is_selected(rank, selection.order_key(proxies_N), ties_N).mean())
  assert scipy.stats.binomtest(failed, 200, promise.risk, alternative="greater").pvalue > 0.001
  oracle = (proxies_N >= np.sort(proxies_N[best])[promise.losses(wanted)]).mean()
  assert oracle < np.mean(shares) < 1.4 * oracle


def test_least_audit_is_the_least():
  """Kills: a least audit that is one too small or too large, by which a refusal would advise in vain."""
  for documents, wanted in ((3000, 300), (100_000, 5_000), (40, 4)):
    least = cascade.least_audit(documents, wanted, cascade.Promise())
    assert cascade.num_best(documents, wanted, least, cascade.Promise()) is not None
    assert cascade.num_best(documents, wanted, least - 1, cascade.Promise()) is None
  assert cascade.default_audit(364_000_000, 36_400_000, cascade.Promise()) == 20_000
  assert cascade.default_audit(3000, 300, cascade.Promise()) == cascade.least_audit(3000, 300, cascade.Promise())


def test_certificate_describes_its_audit_and_reads_itself_back():
  """Kills: a certificate that depends on the order of the audit; a field lost in JSON."""
  generator = np.random.default_rng(1)
  scores_M = generator.standard_normal(2000)
  audit = make_audit(scores_M, scores_M + 0.3 * generator.standard_normal(2000), generator.permutation(2000))
  settings = {"documents": 20_000, "audited": 2000, "wanted": certificates.Wanted(2000), "promise": cascade.Promise()}
  certificate = certificates.certify(audit, **settings)
  order = generator.permutation(2000)
  assert certificates.certify(cascade.Audit(*(column[order] for column in audit)), **settings) == certificate
  assert certificates.Certificate.from_json(certificate.to_json()) == certificate
  low, high = certificate.audit_recall_interval
  assert low < certificate.audit_recall < high and certificate.curve[-1] == (1.0, 1.0)
  asked = selection.is_selected(certificate.floor, audit.proxy_keys, audit.ties).mean()
  assert certificate.expected_share == pytest.approx(0.1 + 0.9 * asked)


def test_documents_that_the_rater_cannot_score_break_no_promise():
  """More are wanted than it can score. Kills: a threshold by fewer of the audit's best than the proof takes."""
  num, audited, promise = 20_000, 4_000, cascade.Promise()
  generator = np.random.default_rng(5)
  scores_N = generator.standard_normal(num)
  ties_N = generator.permutation(num).astype(np.uint64)
  is_scored_N = np.arange(num) < 16_000
  proxies_N = np.where(is_scored_N, scores_N, -9.0)
  best = np.flatnonzero(is_scored_N)  # the rater alone would select them all
  failed = 0
  for _ in range(40):
    taken = generator.choice(num, audited, replace=False)
    read = taken[is_scored_N[taken]]
    certificate = certificates.certify(
      make_audit(scores_N[read], proxies_N[read], ties_N[read]),
      documents=num,
      audited=audited,
      wanted=certificates.Wanted(18_000),
      promise=promise,
    )
    failed += lost(scores_N, proxies_N, ties_N, taken, best, certificate.floor) > promise.losses(len(best))
  assert failed <= 2


def test_small_audits_are_refused_with_the_audit_that_can_certify():
  empty = make_audit(np.zeros(50), np.zeros(50), np.arange(50))
  settings = {"documents": 20_000, "audited": 50, "promise": cascade.Promise()}
  with pytest.raises(WinnowError, match=r"the least audit that can is --audit=7[0-9][0-9]"):
    certificates.certify(empty, wanted=certificates.Wanted(2000), **settings)
  with pytest.raises(WinnowError, match="has 0 documents at or above the threshold, and 59 are needed"):
    certificates.certify(empty, wanted=certificates.Wanted(floor=selection.NO_RANK), **settings)
  for recall in ("1", "0", "nan", "x"):
    with pytest.raises(WinnowError, match="--recall"):
      cascade.Promise(recall)


def test_tails_are_exact():
  """Kills: a tail that loses its digits where factorials are large, or its lower end."""
  for population, marked, drawn in ((10, 4, 3), (10, 8, 7), (1000, 30, 500), (364_000_000, 1_820_000, 20_000)):
    for most in (-1, 0, 1, 3, 10, 80, 120):
      expected = scipy.stats.hypergeom.cdf(most, population, marked, drawn)
      actual = tails.hypergeometric_cdf(most, population=population, marked=marked, drawn=drawn)
      assert actual == pytest.approx(expected, rel=1e-5, abs=1e-12)
  assert tails.binomial_cdf(3, trials=10, probability=0.2) == pytest.approx(scipy.stats.binom.cdf(3, 10, 0.2))
  expected = scipy.stats.binomtest(40, 50).proportion_ci(0.9, "exact")
  assert tails.binomial_interval(40, 50, 0.9) == pytest.approx((expected.low, expected.high))
  assert tails.binomial_interval(50, 50, 0.9)[1] == 1 and tails.binomial_interval(0, 50, 0.9)[0] == 0
