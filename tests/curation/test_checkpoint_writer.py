"""Checkpoints that are written, and read again."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_t5

from curation import checkpoint_writer, checkpoints


@pytest.mark.parametrize("gated", [True, False])
def test_tensors_are_those_that_were_read(tmp_path, gated):
  """Kills: tensors swapped, left out or transposed in the inverse of the reader, in either kind of T5."""
  folder = tiny_t5.make_checkpoint(tmp_path / "model", gated=gated, num_layers=3)
  read = checkpoints.load_checkpoint(folder, "float32")
  tensors = checkpoint_writer.to_tensors(read.params, read.config)
  original = safetensors.numpy.load_file(folder / "model.safetensors")
  assert tensors.keys() == original.keys()
  assert all(np.array_equal(tensors[name], value) for name, value in original.items())


def test_written_checkpoint_loads_and_is_half_as_large(tmp_path):
  """Kills: a writer that keeps float32, or a config that describes another model."""
  folder = tiny_t5.make_checkpoint(tmp_path / "model")
  read = checkpoints.load_checkpoint(folder, "float32")
  for name in ("one", "two"):
    checkpoint_writer.write_checkpoint(tmp_path / name, read.config, read.params, vocabulary=read.vocabulary.model)
  again = checkpoints.load_checkpoint(tmp_path / "one", "float32")
  assert again.config == read.config and again.vocabulary.model == read.vocabulary.model
  for one, other in zip(jax.tree.leaves(read.params), jax.tree.leaves(again.params), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
  size = (folder / "model.safetensors").stat().st_size
  assert (tmp_path / "one" / "model.safetensors").stat().st_size < 0.6 * size
  for file in (tmp_path / "one").iterdir():
    assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_weights_that_do_not_fit_are_refused(tmp_path):
  """Kills: infinities in the file."""
  read = checkpoints.load_checkpoint(tiny_t5.make_checkpoint(tmp_path / "model"), "float32")
  params = read.params | {"embedding_VD": np.full_like(read.params["embedding_VD"], 1e6)}
  with pytest.raises(OverflowError, match=r"shared\.weight"):
    checkpoint_writer.write_checkpoint(tmp_path / "new", read.config, params, vocabulary=read.vocabulary.model)
  assert not (tmp_path / "new" / "model.safetensors").exists()
