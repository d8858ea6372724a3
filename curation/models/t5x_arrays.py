"""Opens the arrays of a T5X checkpoint's model by name, and skips the optimizer's state.

    checkpoint, target.NAME/                      the first layout: an index in msgpack, and a zarr array in each folder
    state/ (manifest.ocdbt, d/, ocdbt.process_N/) Orbax's: the same zarr arrays as keys of an OCDBT database

The index may also hold an array inline (github.com/google/flax, serialization.py; zarr's version 2 specification).
tensorstore decodes a chunk as a stream, straight into the memory that the array's shape calls for. It refuses a chunk
that would become larger without unpacking it (measured: 2 GB of zeros in 9 MB take no memory). Nor does it follow a
database out of its folder.
"""

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from curation.errors import WinnowError

INDEX = "checkpoint"
STATE = "state"
_MANIFEST = "manifest.ocdbt"
_PREFIX = "target."

_DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "float16", "bfloat16")}

_MAX_INDEX_BYTES = 1 << 30
_MAX_INDEX_ENTRIES = 1_000_000
_MAX_DEPTH = 16
_MAX_METADATA_BYTES = 1 << 16
_MAX_RANK = 8
_MAX_CAUSE = 500  # characters, since messages quote the file
# A folder's name in an index; older checkpoints write it without the slash.
_PLACE = re.compile(r"target\.[\w.-]+/?", re.ASCII)
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_ARRAY_EXTENSION = 1
# The compressors that tensorstore decodes as a stream.
_COMPRESSORS = (None, "gzip", "zlib", "zstd")


@dataclasses.dataclass(frozen=True)
class Array:
  """One array, with the shape and dtype that its file claims. `read` raises WinnowError if the claim is false."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize


def array_files(folder: Path) -> list[Path]:
  """Returns the files that hold the model's arrays: all files of Orbax's database, since it cannot be divided."""
  if not (folder / STATE).is_dir():
    return [folder / INDEX, *(path for path in folder.glob(f"{_PREFIX}*/**/*") if path.is_file())]
  manifest = folder / STATE / _MANIFEST
  if not manifest.is_file():
    raise WinnowError(f"{manifest} is missing: give a complete checkpoint that Orbax saved with OCDBT.")
  places = ("d/**/*", "ocdbt.process_*/**/*")
  return [manifest, *(path for place in places for path in (folder / STATE).glob(place) if path.is_file())]


def open_arrays(folder: Path) -> dict[str, Array]:
  """Opens the arrays by name, such as `encoder.encoder_norm.scale`, and reads only those inside the index.

  Raises WinnowError for anything damaged, for a path that leads out of the folder, and for a dtype other than float32,
  float16 and bfloat16.
  """
  import tensorstore as ts

  root = folder.resolve()  # tensorstore takes no path with `..` in it
  if (folder / STATE).is_dir():
    with _tensorstore_errors(folder / STATE):
      base = {"driver": "file", "path": f"{root / STATE}/"}
      store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
      # Keys are target.NAME/.zarray and target.NAME/CHUNK; "/" follows "." in ASCII.
      keys = store.list(ts.KvStore.KeyRange(_PREFIX, _PREFIX[:-1] + "/")).result()
      places = {place.removeprefix(_PREFIX): place for place in {key.decode().partition("/")[0] for key in keys}}
    return _open_stored(folder / STATE, store, places)
  inline, places = _read_index(folder / INDEX)
  store = ts.KvStore.open({"driver": "file", "path": f"{root}/"}).result()
  return inline | _open_stored(folder, store, places)


def _open_stored(folder: Path, store: Any, places: dict[str, str]) -> dict[str, Array]:
  """Opens zarr arrays by name from their folders in a key-value store, which is in `folder`."""
  import tensorstore as ts

  context = ts.Context()
  for place in places.values():
    head = folder / place / ".zarray"  # a file only in the first layout; a value is smaller than its database
    if head.is_file() and head.stat().st_size > _MAX_METADATA_BYTES:
      raise WinnowError(f"{head} has {head.stat().st_size:,} bytes, too many for such a file.")
  heads = {name: store.read(f"{place}/.zarray") for name, place in places.items()}
  for name, head in heads.items():
    path = folder / places[name] / ".zarray"
    with _tensorstore_errors(path):
      entry = head.result()
    if entry.state != "value":
      raise WinnowError(f"{path} is missing: copy the checkpoint again.")
    if len(entry.value) > _MAX_METADATA_BYTES:
      raise WinnowError(f"{path} has {len(entry.value):,} bytes, too many for such a file.")
  opening = {}
  for name, place in places.items():
    spec = {"driver": "zarr", "kvstore": (store / f"{place}/").spec().to_json()}
    # T5X sets no fill value, so it writes every chunk: a missing one was not copied.
    spec["fill_missing_data_reads"] = _fills(heads[name].result().value)
    opening[name] = ts.open(spec, context=context, open=True, read=True)
  arrays = {}
  for name, future in opening.items():
    path = folder / places[name]
    with _tensorstore_errors(path):
      stored = future.result()
    dtype, shape, chunk = stored.dtype.name, tuple(stored.shape), list(stored.chunk_layout.read_chunk.shape or ())
    _check_claims(path, dtype, shape)
    compressor = (stored.spec().to_json()["metadata"]["compressor"] or {}).get("id")
    if compressor not in _COMPRESSORS:
      raise WinnowError(f"{path} is compressed with {compressor}: save the checkpoint with gzip or zstd, as T5X does.")
    # A chunk is decoded whole, however little of it belongs to the array.
    if any(part is None or part > max(size, 1) for part, size in zip(chunk, shape, strict=True)):
      raise WinnowError(f"{path} has chunks of {chunk}, larger than its shape {list(shape)}.")
    arrays[name] = Array(shape, _DTYPES[dtype], _reader(path, stored))
  return arrays


def _fills(head: bytes) -> bool:
  """Tells whether an array's metadata give a fill value for absent chunks."""
  try:
    metadata = json.loads(head)
  except (ValueError, RecursionError):  # left to tensorstore to report
    return True
  return isinstance(metadata, dict) and metadata.get("fill_value") is not None


def _reader(path: Path, stored: Any) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    with _tensorstore_errors(path):
      return stored.read(order="C").result()

  return read


def _read_index(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
  """Reads the index: the model's arrays that it holds, and the folders of the others, both by name."""
  import msgpack

  target = None
  with _msgpack_errors(path):
    size = path.stat().st_size
    if size > _MAX_INDEX_BYTES:
      raise WinnowError(f"{path} has {size:,} bytes, too many for an index.")
    with path.open("rb") as file:
      unpacker = msgpack.Unpacker(
        file,
        max_buffer_size=_MAX_INDEX_BYTES,
        max_str_len=1 << 12,
        max_array_len=1 << 10,
        max_map_len=_MAX_INDEX_ENTRIES,
        **_counted(_MAX_INDEX_ENTRIES),
      )
      for _ in range(unpacker.read_map_header()):
        if unpacker.unpack() != "optimizer":
          unpacker.skip()
          continue
        for _ in range(unpacker.read_map_header()):
          if unpacker.unpack() == "target":
            target = unpacker.unpack()
          else:
            unpacker.skip()
  if not isinstance(target, dict):
    raise WinnowError(f"{path} holds no model (optimizer/target): give the checkpoint_N folder of a T5X run.")
  inline, places = {}, {}
  for name, leaf in _leaves(path, target):
    if isinstance(leaf, dict):
      places[name] = _place(path, name, leaf)
    else:
      inline[name] = _inline(path, name, leaf)
  return inline, places


def _counted(limit: int) -> dict[str, Callable]:
  """Returns hooks for msgpack that limit the entries of maps and arrays: one byte can become an object of a hundred."""
  left = limit

  def count(values: list) -> list:
    nonlocal left
    left -= len(values) + 1
    if left < 0:
      raise ValueError(f"over {limit:,} entries")
    return values

  def pairs(items: list) -> dict:
    return dict(count(items))

  return {"object_pairs_hook": pairs, "list_hook": count}


def _leaves(path: Path, tree: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
  if len(above) > _MAX_DEPTH:
    raise WinnowError(f"{path} nests its names more than {_MAX_DEPTH} deep, as no T5 does.")
  for key, value in tree.items():
    if not isinstance(key, str) or not _NAME.fullmatch(key):
      raise WinnowError(f"{path} names an array {str(key)[:_MAX_CAUSE]!r}, as no T5 does.")
    if isinstance(value, dict) and "kvstore" not in value:
      yield from _leaves(path, value, (*above, key))
    else:
      yield ".".join((*above, key)), value


def _place(path: Path, name: str, spec: dict) -> str:
  """Returns the folder of an array that tensorstore wrote. Only its name counts: driver and bucket are the writer's."""
  kvstore = spec["kvstore"]
  place = kvstore.get("path", spec.get("path")) if isinstance(kvstore, dict) else None
  if spec.get("driver") != "zarr" or not isinstance(place, str) or not _PLACE.fullmatch(place):
    raise WinnowError(
      f"{path} puts {name} into {place!r} ({spec.get('driver')!r}), but arrays are zarr in folders beside it."
    )
  return place.removesuffix("/")


def _inline(path: Path, name: str, leaf: Any) -> Array:
  """Unpacks an array that flax packed as an extension of (shape, dtype, bytes)."""
  import msgpack

  if not isinstance(leaf, msgpack.ExtType) or leaf.code != _ARRAY_EXTENSION:
    kind = f"extension {leaf.code}" if isinstance(leaf, msgpack.ExtType) else type(leaf).__name__
    raise WinnowError(f"{path} has {name} as {kind}, which is not an array.")
  with _msgpack_errors(path):
    limits = {"max_array_len": _MAX_RANK, "max_map_len": 0, "max_ext_len": 0, "max_str_len": 64}
    packed = msgpack.unpackb(leaf.data, **limits)
    if not isinstance(packed, list) or len(packed) != 3:
      raise ValueError(f"{name} is not (shape, dtype, bytes)")
    shape, dtype, data = packed
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or not isinstance(data, bytes):
      raise ValueError(f"{name} is not (shape, dtype, bytes)")
  _check_claims(f"{path}: {name}", dtype, shape)
  if math.prod(shape) * _DTYPES[dtype].itemsize != len(data):
    raise WinnowError(f"{path} has {len(data):,} bytes of {name}, which do not fit its shape {shape}.")
  values = np.frombuffer(data, _DTYPES[dtype]).reshape(shape)
  return Array(tuple(shape), values.dtype, lambda: values)


def _check_claims(where: Path | str, dtype: Any, shape: Any) -> None:
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise WinnowError(f"{where} has dtype {dtype!r}: save the checkpoint in float32, bfloat16 or float16.")
  if len(shape) > _MAX_RANK:
    raise WinnowError(f"{where} has {len(shape)} dimensions, more than any array of a T5.")


@contextlib.contextmanager
def _tensorstore_errors(path: Path) -> Iterator[None]:
  """Raises WinnowError with the cause where tensorstore raises an error."""
  try:
    yield
  except (ValueError, KeyError, RuntimeError, NotImplementedError, MemoryError) as error:
    lines = str(error).splitlines() or [type(error).__name__]
    cause = re.split(r" \[(?:tensorstore_spec|source)", lines[0])[0][:_MAX_CAUSE].rstrip(".")
    raise WinnowError(f"{path} cannot be read ({cause}): copy the checkpoint again.") from error


@contextlib.contextmanager
def _msgpack_errors(path: Path) -> Iterator[None]:
  """Raises WinnowError with the cause where the index is not valid msgpack."""
  import msgpack

  try:
    yield
  except (ValueError, TypeError, msgpack.UnpackException) as error:
    cause = str(error) or type(error).__name__
    raise WinnowError(f"{path} is truncated or not an index of T5X ({cause}): copy the checkpoint again.") from error
