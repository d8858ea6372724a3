"""Durable files on any file system: each is complete or absent, and is checked when it is read."""

from typing import TYPE_CHECKING

from curation import faces

if TYPE_CHECKING:
  from pipelines.files import damage as damage
  from pipelines.files import fingerprints as fingerprints
  from pipelines.files import row_bits as row_bits
  from pipelines.files import sealed_arrays as sealed_arrays
  from pipelines.files import sealed_parquet as sealed_parquet
  from pipelines.files import storage as storage
  from pipelines.files.damage import naming_file as naming_file
  from pipelines.files.fingerprints import fingerprint as fingerprint
  from pipelines.files.storage import AccessError as AccessError
else:
  __getattr__, __dir__, __all__ = faces.lazy(
    __name__,
    names=("damage.naming_file", "fingerprints.fingerprint", "storage.AccessError"),
    modules=("damage", "fingerprints", "row_bits", "sealed_arrays", "sealed_parquet", "storage"),
  )
