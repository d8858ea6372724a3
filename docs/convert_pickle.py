"""Turns a model's pickled weights into model.safetensors beside them: `python docs/convert_pickle.py FOLDER`.

Needs torch and safetensors, which Winnow does not: use an environment of its own (guide.md). `weights_only=True` has
torch read tensors and nothing that a pickle could run; even so, take models whose maker you trust.
"""

import pathlib
import sys
import zipfile

import torch
from safetensors.torch import save_file


def convert(folder: pathlib.Path) -> None:
  """Joins the shards of one folder; a Sentence-T5 has a second folder with weights, 2_Dense."""
  tensors = {}
  for path in sorted(folder.glob("pytorch_model*.bin")):
    mapped = zipfile.is_zipfile(path)  # what torch has written since 1.6, read as it is needed
    tensors |= torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
  # Tied weights are one tensor under several names, which safetensors does not take.
  tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
  save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
  print(f"{folder / 'model.safetensors'}: {len(tensors)} tensors")


if __name__ == "__main__":
  folders = {path.parent for path in pathlib.Path(sys.argv[1]).rglob("pytorch_model*.bin")}
  if not folders:
    sys.exit(f"{sys.argv[1]} has no pytorch_model*.bin")
  for found in sorted(folders):
    convert(found)
