"""Draws journey.svg, the picture of design.md: `python docs/make_journey_figure.py`.

It follows the imports of the modules that do the work of `winnow score --scorer=ask_llm` and then of `winnow sample`,
from a shard of JSON Lines to the TFRecords of a sample, and shows every file that they lead to.
"""

import ast
import pathlib
from typing import NamedTuple
from xml.sax import saxutils

PROJECT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = pathlib.Path(__file__).with_name("journey.svg")
# The modules that do the work of the two commands on the workers.
ROOTS = {
  "winnow score": ("pipelines.corpus.readers.jsonl", "pipelines.scoring.scoring", "pipelines.scorers.t5.ask_llm"),
  "winnow sample": (
    "pipelines.corpus.readers.jsonl",
    "pipelines.selection.thresholds",
    "pipelines.output.sampling",
    "pipelines.output.formats.tfrecord",
  ),
}
# Modules that are imported as well, but only for other inputs, scorers and options than those of this journey.
NOT_TAKEN = {
  "curation.errors": "exceptions",
  "curation.models.t5x_checkpoints": "checkpoints of T5X",
  "curation.selection.cascade": "--proxy",
  "curation.selection.certificates": "--proxy",
  "curation.selection.quotas": "--group_by",
  "curation.selection.tails": "--proxy",
  "pipelines.corpus.embedding_files": "--embeddings",
  "pipelines.corpus.fixed_width": "embeddings",
  "pipelines.corpus.readers.parquet": "Parquet input",
  "pipelines.corpus.readers.tf_example": "TFRecord input",
  "pipelines.corpus.readers.tfds": "tfds: input",
  "pipelines.corpus.readers.tfrecord": "TFRecord input",
  "pipelines.corpus.readers.zstd_stream": ".zst input",
  "pipelines.corpus.readers.array_record": "ArrayRecord input",
  "pipelines.output.cascades": "--proxy",
  "pipelines.files.row_bits": "recipes of several stages",
  "pipelines.registry.command_names": "the command line",
  "pipelines.registry.flag": "the command line",
  "pipelines.runners.devices": "checks at launch",
  "pipelines.runners.parts": "--part",
  "pipelines.runners.sharing": "--part",
  "pipelines.scorers.clusters.scorer": "clusters",
  "pipelines.scoring.known_scores": "--proxy",
  "pipelines.scoring.preparation": "scorers that read a store",
  "pipelines.scoring.stored_blocks": "scorers that read a store",
  "pipelines.selection.cascade": "--proxy",
  "pipelines.selection.quotas": "--group_by",
  "pipelines.selection.survivors": "recipes of several stages",
}
# Folders in the order in which the data reach them: the colour, and what happens there. SERVING serve all others.
FOLDERS = {
  "pipelines/corpus": ("#1f77b4", "divides shards into stripes and blocks"),
  "pipelines/corpus/readers": ("#5aa9e6", "reads a format"),
  "pipelines/scoring": ("#d62728", "has each block scored, and puts the scores on record"),
  "pipelines/scorers/t5": ("#e377c2", "finds and loads the model"),
  "curation/scorers": ("#9467bd", "computes log P(yes)"),
  "curation/models": ("#6a51a3", "runs the T5 on batches of tokens"),
  "pipelines/store": ("#2ca02c", "keeps the scores, block by block"),
  "pipelines/selection": ("#bc8f00", "finds the threshold of the sample"),
  "curation/selection": ("#8c6d31", "turns a score into a rank"),
  "pipelines/output/formats": ("#f4a460", "encodes documents as records, and records as files"),
  "pipelines/output": ("#e6730c", "reads the selected texts again, and writes them"),
  "pipelines/sorted_runs": ("#8c564b", "sorts records by their output shard"),
  "pipelines/registry": ("#a6a6a6", "finds commands, flags and entries by name"),
  "pipelines/files": ("#7f7f7f", "creates files whole, and checks them"),
  "pipelines/worker": ("#4d4d4d", "reads ahead, reports progress, logs"),
}
SERVING = ("pipelines/registry", "pipelines/files", "pipelines/worker")
COLUMNS, WIDTH, GAP, LINE, ROW_GAP = 4, 215, 35, 18, 30


class Journey(NamedTuple):
  """The files on the journey.

  `files` has their names by folder, in the order of FOLDERS; `commands` has the commands that go through a file, by its
  path.
  """

  files: dict[str, list[str]]
  commands: dict[str, list[str]]

  def count(self, package: str) -> int:
    """Returns the number of files of a package."""
    return sum(len(names) for folder, names in self.files.items() if folder.startswith(f"{package}/"))


def module_files() -> dict[str, pathlib.Path]:
  """Returns the modules of `pipelines` and `curation` by name, without the faces of packages."""
  files = [file for package in ("pipelines", "curation") for file in sorted((PROJECT / package).rglob("*.py"))]
  names = {".".join(file.relative_to(PROJECT).with_suffix("").parts): file for file in files}
  return {name: file for name, file in names.items() if file.name != "__init__.py"}


def face_names(modules: dict[str, pathlib.Path]) -> dict[str, str]:
  """Returns the modules that hold the public names of folders, by the full names that the folders give them."""
  found = {}
  for folder in sorted({file.parent for file in modules.values()}):
    package = ".".join(folder.relative_to(PROJECT).parts)
    for node in ast.walk(ast.parse((folder / "__init__.py").read_text())):
      if isinstance(node, ast.ImportFrom):
        for alias in node.names:
          module = f"{node.module}.{alias.name}"
          found[f"{package}.{alias.asname or alias.name}"] = module if module in modules else str(node.module)
  return found


def imported_modules(file: pathlib.Path, modules: dict[str, pathlib.Path], faces: dict[str, str]) -> list[str]:
  """Returns our modules that a file imports, at its top or inside functions, except those for types alone."""
  tree = ast.parse(file.read_text())
  for_types = {
    inner
    for node in ast.walk(tree)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    for inner in ast.walk(node)
  }
  found = set()
  for node in ast.walk(tree):
    if node in for_types:
      continue
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
  return sorted({faces.get(name, name) for name in found} & modules.keys())


def compute() -> Journey:
  """Follows the imports from the roots. Raises ValueError if a module or a folder is not known here."""
  modules = module_files()
  named = {name for roots in ROOTS.values() for name in roots} | NOT_TAKEN.keys()
  if missing := sorted(named - modules.keys()):
    raise ValueError(f"{', '.join(missing)} is no module any more; correct ROOTS and NOT_TAKEN")
  faces = face_names(modules)
  imports = {
    name: [found for found in imported_modules(file, modules, faces) if found not in NOT_TAKEN]
    for name, file in modules.items()
  }
  reached = {command: _closure(imports, roots) for command, roots in ROOTS.items()}
  folders: dict[str, list[str]] = {folder: [] for folder in FOLDERS}
  commands = {}
  for name in sorted(set().union(*reached.values())):
    path = modules[name].relative_to(PROJECT)
    folder = str(path.parent)
    if folder == "curation":  # what all its folders share
      continue
    if folder not in folders:
      raise ValueError(f"{path} lies in a folder that FOLDERS does not have; add it in the order of the data")
    folders[folder].append(path.name)
    commands[str(path)] = [command for command, names in reached.items() if name in names]
  return Journey({folder: names for folder, names in folders.items() if names}, commands)


def _closure(imports: dict[str, list[str]], roots: tuple[str, ...]) -> set[str]:
  found, waiting = set(roots), list(roots)
  while waiting:
    new = set(imports[waiting.pop()]) - found
    found |= new
    waiting += new
  return found


def svg(journey: Journey) -> str:
  """Draws a box per folder in the order of the data, with a line per file and a dot for each command that uses it."""
  carrying = [folder for folder in journey.files if folder not in SERVING]
  rows = [carrying[start : start + COLUMNS] for start in range(0, len(carrying), COLUMNS)]
  rows.append([folder for folder in journey.files if folder in SERVING])
  shapes, top = [], 78
  for number, row in enumerate(rows):
    bottom = top + max(_height(journey, folder) for folder in row)
    for column, folder in enumerate(row):
      left = GAP + column * (WIDTH + GAP)
      shapes += _box(journey, folder, left, top)
      if folder not in SERVING and column + 1 < len(row):
        shapes.append(_arrow(f"M {left + WIDTH + 4} {top + 13} h {GAP - 10}"))
    if number + 2 < len(rows):
      right = GAP + len(row) * (WIDTH + GAP) - GAP
      turn = bottom + ROW_GAP // 2
      shapes.append(_arrow(f"M {right + 4} {top + 13} h 12 V {turn} H {GAP + WIDTH // 2} V {bottom + ROW_GAP - 4}"))
    top = bottom + ROW_GAP
  legend = _legend(journey, top)
  width, height = GAP + COLUMNS * (WIDTH + GAP), top + LINE * (len(legend) // 2) + 20
  counts = f"{journey.count('pipelines')} files of pipelines and {journey.count('curation')} of curation"
  head = [
    _text(GAP, 30, "The journey of a block of C4 to a TFRecord", 'font-size="17" font-weight="bold"'),
    _text(
      GAP, 54, f"{counts}: winnow score goes through the files with a full dot, winnow sample through those with a ring"
    ),
  ]
  body = "\n".join([*head, *shapes, *legend])
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    'font-family="Helvetica, Arial, sans-serif" font-size="12">\n'
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M 0 0 L 8 4 L 0 8 z" fill="#333"/></marker></defs>\n'
    f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
  )


def _height(journey: Journey, folder: str) -> int:
  return len(journey.files[folder]) * LINE + 34


def _box(journey: Journey, folder: str, left: float, top: float) -> list[str]:
  names, colour = journey.files[folder], FOLDERS[folder][0]
  height = _height(journey, folder)
  shapes = [
    f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{height}" fill="{colour}" fill-opacity="0.08" '
    f'stroke="{colour}"/>',
    f'<rect x="{left}" y="{top}" width="{WIDTH}" height="26" fill="{colour}"/>',
    _text(left + 10, top + 17, folder, 'fill="white" font-weight="bold"'),
  ]
  for number, name in enumerate(names):
    middle = top + 42 + number * LINE
    shapes.append(_text(left + 36, middle + 4, name))
    used = journey.commands[f"{folder}/{name}"]
    if "winnow score" in used:
      shapes.append(f'<circle cx="{left + 13}" cy="{middle}" r="4" fill="{colour}"/>')
    if "winnow sample" in used:
      shapes.append(f'<circle cx="{left + 25}" cy="{middle}" r="4" fill="white" stroke="{colour}" stroke-width="2"/>')
  return shapes


def _legend(journey: Journey, top: float) -> list[str]:
  shapes = []
  for number, (folder, names) in enumerate(journey.files.items()):
    colour, role = FOLDERS[folder]
    middle = top + number * LINE + 10
    serving = ", for all other folders" if folder in SERVING else ""
    shapes.append(f'<rect x="{GAP}" y="{middle - 10}" width="14" height="14" fill="{colour}"/>')
    shapes.append(_text(GAP + 22, middle + 1, f"{folder}, {len(names)} file{'s' * (len(names) > 1)}: {role}{serving}"))
  return shapes


def _arrow(path: str) -> str:
  return f'<path d="{path}" fill="none" stroke="#333" stroke-width="1.5" marker-end="url(#head)"/>'


def _text(left: float, base: float, text: str, attributes: str = "") -> str:
  return f'<text x="{left}" y="{base}" {attributes}>{saxutils.escape(text)}</text>'.replace(" >", ">")


if __name__ == "__main__":
  FIGURE.write_text(svg(compute()))
