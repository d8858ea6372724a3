"""Selected documents as files, with their manifest and their verification."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.output import formats as formats
  from pipelines.output import manifests as manifests
  from pipelines.output.manifests import MANIFEST_FILE as MANIFEST_FILE
  from pipelines.output.sampling import Sample as Sample
  from pipelines.output.verification import VerificationConfig as VerificationConfig
  from pipelines.output.verification import Verify as Verify
  from pipelines.output.writing import SamplingConfig as SamplingConfig
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=(
      "manifests.MANIFEST_FILE",
      "sampling.Sample",
      "verification.VerificationConfig",
      "verification.Verify",
      "writing.SamplingConfig",
    ),
    modules=("formats", "manifests"),
  )
