"""Checkpoints that are written and read again."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_t5

from curation.models import checkpoint_writer, checkpoints
from curation.scorers import sentence_t5


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


def test_written_sentence_t5_is_read_again(tmp_path):
  """Kills: a decoder that is looked for, a projection transposed or in another place, a limit that is lost."""
  read = sentence_t5.load(tiny_t5.make_sentence_t5(tmp_path / "model", max_seq_length=33), "float32")
  vocabulary = read.vocabulary.model
  checkpoint_writer.write_sentence_t5(
    tmp_path / "new", read.config, read.params, vocabulary=vocabulary, max_seq_length=read.max_input_tokens
  )
  again = sentence_t5.load(tmp_path / "new", "float32")
  assert (again.config, again.max_input_tokens) == (read.config, 33) and again.vocabulary.model == vocabulary
  assert read.params.keys() == again.params.keys()
  for one, other in zip(jax.tree.leaves(read.params), jax.tree.leaves(again.params), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
  params = read.params | {"dense_OD": np.full_like(read.params["dense_OD"], 1e6)}
  with pytest.raises(OverflowError, match="dense_OD"):
    checkpoint_writer.write_sentence_t5(tmp_path / "no", read.config, params, vocabulary=vocabulary, max_seq_length=9)
