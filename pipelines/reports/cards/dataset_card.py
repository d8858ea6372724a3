"""The dataset card of outputs, in the format of the Hugging Face hub, with its figures as files beside it."""

import itertools
import re
import shlex
from collections.abc import Sequence
from typing import Any

from pipelines.files import fingerprints, storage
from pipelines.output import tfds_metadata
from pipelines.output.formats.registry import FORMATS
from pipelines.reports import choices, figures, news
from pipelines.reports.axes import Axis
from pipelines.reports.cards import card_figures
from pipelines.reports.figures import Figure
from pipelines.reports.material import Output, Sources
from pipelines.store import score_store
from pipelines.store.score_store import ScoreStore

CARD = "dataset_card.md"
SCORES, LENGTHS = "dataset_card_scores.png", "dataset_card_lengths.png"
FILES = (CARD, SCORES, LENGTHS)
# Comments, since the hub refuses a card with a language or a licence that it does not know.
_UNKNOWN = (
  "# language: ...  # the languages of the texts by their codes, such as [en, de]\n"
  "# license: ...  # a licence that the corpus allows, by the hub's name of it, such as odc-by\n"
)
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_LOADED = ("jsonl", "parquet")  # the formats that the hub and `datasets` read
_AMOUNTS = (
  "rate",
  "num_examples",
  "num_tokens",
  "threshold",
  "percentile_range",
  "group_by",
  "group_rate",
  "group_max",
)


def render(sources: Sources, scales: Sequence[Axis], tables: dict[str, Figure]) -> dict[str, bytes]:
  """Returns the card and its figures by file name; nothing if the report has no outputs."""
  if not sources.outputs:
    return {}
  names = _names(sources)
  drawn = {
    SCORES: card_figures.scores(sources, scales, tables["scores"]),
    LENGTHS: card_figures.lengths(sources, tables["lengths"]),
  }
  pictures = {name: picture for name, picture in drawn.items() if picture}
  sections = [
    _heading(sources, names),
    _contents(sources, names, tables),
    *(_method(output, name) for output, name in zip(sources.outputs, names, strict=True)),
    _fields(),
    _loading(sources, names),
    _pictures(list(pictures)),
  ]
  return {CARD: (_front_matter(sources, names) + "\n".join(sections)).encode(), **pictures}


def _names(sources: Sources) -> list[str]:
  """Returns a name of each output that a configuration and a folder of the repository may have."""
  names: list[str] = []
  for output in sources.outputs:
    name = tfds_metadata.dataset_name(storage.base_name(output.folder))
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    names.append(next(free for free in itertools.chain([name], numbered) if free not in names))
  return names


def size_category(documents: int) -> str:
  """Returns the hub's category of a number of documents."""
  bounds = [10 ** (3 + place) for place in range(len(_SIZES))]
  place = sum(documents >= bound for bound in bounds)
  if place == 0:
    return f"n<{_SIZES[0]}"
  return f"n>{_SIZES[-1]}" if place == len(_SIZES) else f"{_SIZES[place - 1]}<n<{_SIZES[place]}"


def _front_matter(sources: Sources, names: list[str]) -> str:
  import yaml

  samplers = sorted({output.request.sampler for output in sources.outputs})
  sizes = dict.fromkeys(size_category(output.manifest["counts"]["selected"]) for output in sources.outputs)
  fields: dict[str, Any] = {
    "pretty_name": ", ".join(names),
    "size_categories": list(sizes),
    "task_categories": ["text-generation", "fill-mask"],
    "tags": ["winnow", "pre-training", "data-curation", *samplers],
  }
  configurations = [
    {"config_name": name, "data_files": [{"split": output.manifest["split"], "path": _shards(sources, output, name)}]}
    for output, name in zip(sources.outputs, names, strict=True)
    if output.manifest["output_format"] in _LOADED
  ]
  if configurations:
    fields["configs"] = configurations
  return f"---\n{_UNKNOWN}{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n\n"


def _shards(sources: Sources, output: Output, name: str) -> str:
  """Returns the glob of an output's shards in the repository, where several outputs have a folder each."""
  suffix = output.manifest["output_format"]
  glob = f"{output.manifest['dataset']}-{output.manifest['split']}-*.{suffix}"
  return glob if len(sources.outputs) == 1 else f"{name}/{glob}"


def _heading(sources: Sources, names: list[str]) -> str:
  where = (
    "Upload the files of the output"
    if len(names) == 1
    else "Upload each output into the folder of its name: " + ", ".join(map(_code, names))
  )
  return (
    f"# {', '.join(names)}\n\n"
    "Documents of a larger corpus, selected for pre-training by Winnow. Every document keeps its score and the place "
    "where it comes from.\n\n"
    "**Before you publish this:** fill in `language` and `license` above, which are comments so far, describe the "
    "corpus and its terms, and remove from the commands below what is private. "
    f"{where}, and this file as `README.md` with its pictures.\n"
  )


def _contents(sources: Sources, names: list[str], tables: dict[str, Figure]) -> str:
  """Returns the counts of documents and of tokens.

  An output whose own scorer has counted no tokens has those that the report's first counting scorer found in it.
  """
  documents, tokens = [], []
  (_, _, of_corpus, _), *of_outputs = tables["means"].rows
  copies = tables["duplicates"].rows
  for output, name, (_, among, _, near), (_, _, counted, _) in zip(
    sources.outputs, names, copies, of_outputs, strict=True
  ):
    counts, own = output.manifest["counts"], output.manifest["tokens"]
    numbers = [f"{counts[field]:,}" for field in ("read", "bad", "scored", "selected")]
    share = _share(counts["selected"], counts["scored"])
    documents.append([_code(name), *numbers, share, f"{near:,} of {among:,}"])
    scored, selected, store = own["scored"], own["selected"], output.store
    if selected is None and sources.counting is not None:
      scored, selected, store = of_corpus, counted, sources.stores[sources.counting]
    if selected is not None:
      share = _share(selected, scored)
      tokens.append([_code(name), f"{scored:,}", f"{selected:,}", share, _code(_vocabulary(store))])
  header = ["", "read", "bad", "scored", "selected", "share", "near-copies"]
  text = (
    f"## Contents\n\nDocuments:\n\n{_table(header, documents)}\n"
    "`read` documents were read, of which `bad` ones could not be scored. Near-copies share 80% of their runs of five "
    "words; they are counted among the first documents, which are in a random order.\n"
  )
  if tokens:
    header = ["", "tokens scored", "tokens selected", "share", "vocabulary"]
    text += (
      f"\nTokens of these documents:\n\n{_table(header, tokens)}\n"
      "Tokens are counted by the vocabulary of the model, or by the vocabulary itself, that is named beside them. "
      "Numbers of tokens by different vocabularies do not compare.\n"
    )
  return text


def _vocabulary(store: ScoreStore) -> str:
  """Returns the name of the vocabulary by which a store counts tokens: its own, or that of the model that has it."""
  made_with = fingerprints.field(storage.join(store.folder, score_store.INPUT_FILE), score_store.MADE_WITH)
  names = made_with if isinstance(made_with, dict) else {}
  return str(names.get("vocabulary") or names.get("model") or f"that of the scorer {store.scorer}")


def _method(output: Output, name: str) -> str:
  manifest, request = output.manifest, output.request
  scores = manifest["scores"]["request"]
  lines = [] if request.sampler == "random" else [f"- Scorer: {_code(str(scores['scorer']))}"]
  lines += [f"- {what.capitalize()}: {_code(str(of))}" for what, of in manifest.get("made_with", {}).items()]
  model = scores.get("model")
  if isinstance(model, dict):
    files = [
      f"{_code(file)} ({of['checksum']})" for file, of in model.items() if isinstance(of, dict) and "checksum" in of
    ]
    lines += [f"- Files of the model: {', '.join(files)}"] if files else []
  corpus = fingerprints.field(storage.join(output.store.folder, score_store.INPUT_FILE), "input")
  lines.append(f"- Corpus: {_code(str(corpus or 'unknown'))}, {len(manifest['inputs']):,} files")
  if stages := _stages(scores):
    lines.append(f"- Earlier stages, the first one first: {', '.join(map(_code, stages))}")
  amounts = [f"--{field}={getattr(request, field)}" for field in _AMOUNTS if getattr(request, field) is not None]
  how = [f"--sampler={request.sampler}", f"--method={request.method}", *amounts, f"--seed={request.seed}"]
  lines.append(f"- {'Rejected' if output.rejected else 'Selected'} by {_code(' '.join(how))}")
  if output.ceiling is not None:
    lines.append(f"- Ends of the range of scores: {choices.threshold_of(output):.6g} and {output.ceiling:.6g}")
  elif (score := choices.threshold_of(output)) is not None:
    lines.append(f"- Score of the last selected document: {score:.6g}")
  lines.append(f"- Versions: {', '.join(f'{package} {version}' for package, version in manifest['versions'].items())}")
  prompt = scores.get("prompt")
  question = f"\nThe question that the model answered:\n\n{_block(prompt)}" if isinstance(prompt, str) else ""
  command = _block(shlex.join(map(str, manifest["command"])), "sh")
  return f"## How {_code(name)} was made\n\n" + "\n".join(lines) + f"\n{question}\nThe same output again:\n\n{command}"


def _stages(request: dict[str, Any]) -> list[str]:
  """Returns the scorers of the stages before a store, in order."""
  within = request.get("within")
  if not isinstance(within, dict):
    return []
  before = within["scores"]
  return [*_stages(before), str(before["scorer"])]


def _fields() -> str:
  rows = [
    ["`text`", "string", "the document"],
    ["`url`", "string", "its url; empty if the corpus has none"],
    ["`timestamp`", "string", "its timestamp; empty if the corpus has none"],
    ["`source`", "string", "`SHARD#ROW`, the file and the row of the corpus"],
    ["`score`", "float32", "its score by the scorer"],
  ]
  return f"## Fields\n\n{_table(['field', 'type', 'meaning'], rows)}"


def _loading(sources: Sources, names: list[str]) -> str:
  imports: dict[str, None] = {}
  lines: list[str] = []
  is_downloaded = False
  for output, name in zip(sources.outputs, names, strict=True):
    kind, split = output.manifest["output_format"], output.manifest["split"]
    if kind in _LOADED:
      imports["import datasets"] = None
      configuration = "" if len(names) == 1 else f'"{name}", '
      lines.append(f'datasets.load_dataset("USER/REPOSITORY", {configuration}split="{split}")')
    elif FORMATS[kind].is_tfds:
      is_downloaded = True
      imports |= {"import tensorflow_datasets as tfds": None, "from pretraining import tasks": None}
      folder = "FOLDER" if len(names) == 1 else f"FOLDER/{name}"
      lines.append(f'tfds.builder_from_directory("{folder}").as_dataset(split="{split}")')
      task = f"winnow_{output.manifest['dataset']}"
      lines.append(f'tasks.register_sample("{folder}")  # for seqio and T5X: the task {task}')
    else:
      lines.append(f"# {name} is of the format {kind}; the package that brings this format reads it")
  # Neither TFDS nor seqio reads the hub.
  download = "\nDownload first: `hf download USER/REPOSITORY --repo-type=dataset --local-dir=FOLDER`.\n"
  code = _block("\n".join([*imports, "", *lines]), "python")
  return f"## Load it\n{download if is_downloaded else ''}\n{code}"


def _pictures(files: list[str]) -> str:
  captions = {
    SCORES: "Scores of the corpus and of the selected documents",
    LENGTHS: "Tokens of a document, in the corpus and among the selected documents",
  }
  lines = [f"![{captions[file]}]({file})\n" for file in files]
  return "## Figures\n\n" + "\n".join(lines) if lines else ""


def _share(part: int, whole: int) -> str:
  return news.percent(100 * part / max(whole, 1))


def _table(header: list[str], rows: list[list[str]]) -> str:
  lines = [header, ["---"] * len(header), *rows]
  return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(text: str) -> str:
  """Returns text as Markdown's code within a line, whatever is in it."""
  text = " ".join(figures.legible(text).split())
  fence = "`" * (1 + _longest_run(text))
  return f"`{text}`" if fence == "`" else f"{fence} {text} {fence}"


def _block(text: str, language: str = "text") -> str:
  fence = "`" * max(3, 1 + _longest_run(text))
  return f"{fence}{language}\n{figures.legible(text).rstrip()}\n{fence}\n"


def _longest_run(text: str) -> int:
  """Returns the length of the longest run of backticks."""
  return max(map(len, re.findall("`+", text)), default=0)
