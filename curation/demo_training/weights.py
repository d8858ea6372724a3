"""Random weights to start a training of a T5 from."""

import numpy as np

from curation import hugging_face_checkpoints, t5


def random_tensors(
  model: t5.T5Config, generator: np.random.Generator, *, added: float, encoder_only: bool = False
) -> dict[str, np.ndarray]:
  """Tensors under Hugging Face's names, float32: random by fan-in; norms are 1, the head and positions 0.

  What is added to the residual stream is `added` times as large, to be small beside the embedding.
  """
  tensors = {}
  for name, shape in hugging_face_checkpoints.expected_shapes(model, encoder_only=encoder_only).items():
    if name.endswith("layer_norm.weight"):
      values = np.ones(shape)
    elif name == "lm_head.weight" or "relative_attention_bias" in name:
      values = np.zeros(shape)
    else:
      values = generator.standard_normal(shape) * shape[-1] ** -0.5
      if name.endswith(".q.weight"):  # T5's attention is not scaled by d_kv**-0.5
        values *= model.d_kv**-0.5
      if name.endswith((".o.weight", ".wo.weight")):
        values *= added
    tensors[name] = values.astype(np.float32)
  return tensors
