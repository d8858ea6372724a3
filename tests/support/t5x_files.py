"""Writes T5X checkpoints as T5X does, from tensors under Hugging Face's names, for tests to read and to damage."""

import pathlib
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts

_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}


def _attention(ours: str, theirs: str) -> dict[str, str]:
  return {f"{ours}.{name}.kernel": f"{theirs}.{letter}" for name, letter in _ATTENTION.items()}


def _mlp(number: int) -> dict[str, str]:
  return {f"mlp.{name}.kernel": f"{number}.DenseReluDense.{name}" for name in ("wi", "wi_0", "wi_1", "wo")}


_LAYER = {
  "encoder": {
    "pre_attention_layer_norm.scale": "0.layer_norm",
    **_attention("attention", "0.SelfAttention"),
    "pre_mlp_layer_norm.scale": "1.layer_norm",
    **_mlp(1),
  },
  "decoder": {
    "pre_self_attention_layer_norm.scale": "0.layer_norm",
    **_attention("self_attention", "0.SelfAttention"),
    "pre_cross_attention_layer_norm.scale": "1.layer_norm",
    **_attention("encoder_decoder_attention", "1.EncDecAttention"),
    "pre_mlp_layer_norm.scale": "2.layer_norm",
    **_mlp(2),
  },
}


def to_arrays(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays of T5X's network without scanned layers, by name."""
  arrays = {"token_embedder.embedding": tensors["shared.weight"]}
  if "lm_head.weight" in tensors:
    arrays["decoder.logits_dense.kernel"] = tensors["lm_head.weight"].T
  for stack, names in _LAYER.items():
    arrays[f"{stack}.{stack}_norm.scale"] = tensors[f"{stack}.final_layer_norm.weight"]
    table = tensors[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    arrays[f"{stack}.relpos_bias.rel_embedding"] = table.T
    for i in range(100):
      for ours, theirs in names.items():
        name = f"{stack}.block.{i}.layer.{theirs}.weight"
        if name in tensors:
          arrays[f"{stack}.layers_{i}.{ours}"] = tensors[name].T
  return arrays


def write_legacy(
  folder: pathlib.Path,
  arrays: dict[str, np.ndarray],
  *,
  inline: bool = False,
  old_specs: bool = False,
  chunk_rows: int | None = None,
) -> pathlib.Path:
  """Writes an index, and a zarr array for each of the arrays (if `inline`, only for those of two axes or more).

  `old_specs` gives specs as tensorstore wrote them before 0.1.14. No reader could make sense of the optimizer's state.
  """
  folder.mkdir(parents=True)
  target: dict[str, Any] = {}
  for name, values in arrays.items():
    place = f"target.{name}"
    if inline and values.ndim < 2:
      leaf: Any = packed(values)
    else:
      chunks = [min(chunk_rows or values.shape[0], values.shape[0]), *values.shape[1:]]
      metadata = {"shape": list(values.shape), "chunks": chunks, "compressor": {"id": "gzip", "level": 1}}
      write_array({"driver": "file", "path": f"{folder.resolve() / place}/"}, values, metadata)
      leaf = {"driver": "zarr", "dtype": values.dtype.name, "metadata": metadata}
      where = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
      leaf |= {"kvstore": where, "path": place} if old_specs else {"kvstore": {**where, "path": f"{place}/"}}
    _put(target, name, leaf)
  write_index(folder, target)
  (folder / "state.param_states.x.v").mkdir()
  (folder / "state.param_states.x.v/.zarray").write_text("no zarr")
  return folder


def write_index(folder: pathlib.Path, target: Any) -> None:
  state = {"step": msgpack.ExtType(77, b"?"), "param_states": {"x": [None] * 5_000}}
  index = {"version": 3, "optimizer": {"state": state, "target": target}}
  (folder / "checkpoint").write_bytes(msgpack.packb(index))


def change_index(folder: pathlib.Path, change: Callable[[dict], None]) -> None:
  """Applies `change` to the index's model."""
  target = msgpack.unpackb((folder / "checkpoint").read_bytes())["optimizer"]["target"]
  change(target)
  write_index(folder, target)


def write_orbax(folder: pathlib.Path, arrays: dict[str, np.ndarray], *, plain: bool = False) -> pathlib.Path:
  """Writes an OCDBT database in one data file, with an array of the optimizer; `plain` does not compress its index."""
  state = folder.resolve() / "state"
  state.mkdir(parents=True)
  context = ts.Context()
  all_arrays = {f"target.{name}": values for name, values in arrays.items()} | {"state.step": np.zeros(3, np.float32)}
  for name, values in all_arrays.items():
    metadata = {"shape": list(values.shape), "chunks": list(values.shape), "compressor": {"id": "zstd", "level": 1}}
    write_array({"driver": "memory", "path": f"{name}/"}, values, metadata, context)
  memory = ts.KvStore.open({"driver": "memory"}, context=context).result()
  config = {"compression": None if plain else {"id": "zstd"}}
  base = {"driver": "file", "path": f"{state}/"}
  transaction = ts.Transaction(atomic=True)
  database = ts.KvStore.open({"driver": "ocdbt", "base": base, "config": config}, transaction=transaction).result()
  for key in memory.list().result():
    database[key] = memory[key]
  transaction.commit_sync()
  return folder


def write_array(
  kvstore: dict[str, Any], values: np.ndarray, metadata: dict[str, Any], context: ts.Context | None = None
) -> None:
  spec = {"driver": "zarr", "kvstore": kvstore, "dtype": values.dtype.name, "metadata": metadata}
  ts.open(spec, create=True, context=context).result().write(np.ascontiguousarray(values)).result()


def packed(values: np.ndarray) -> msgpack.ExtType:
  """Returns an array as flax packs it into msgpack."""
  return msgpack.ExtType(1, msgpack.packb((values.shape, values.dtype.name, values.tobytes())))


def _put(tree: dict[str, Any], name: str, leaf: Any) -> None:
  *above, last = name.split(".")
  for part in above:
    tree = tree.setdefault(part, {})
  tree[last] = leaf
