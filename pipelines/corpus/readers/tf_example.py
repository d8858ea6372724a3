"""tf.train.Example without TensorFlow: protobuf parses the message from a description in this file.

Importing TensorFlow for three features of bytes would cost 862 MB of memory in every worker.
"""

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_PACKAGE = "winnow"
_FieldType = descriptor_pb2.FieldDescriptorProto


def parse_example(data: bytes) -> Mapping[str, Any]:
  """Parses a serialized tf.train.Example to its features by name, `Feature` messages for `feature_values`.

  Raises ValueError for bytes that are not an Example.
  """
  try:
    return example_class().FromString(data).features.feature
  except message.DecodeError as error:
    raise ValueError(f"not a tf.train.Example: {error}") from error


def feature_values(feature: Any) -> list[bytes] | list[int] | list[float]:
  """Returns the values of one `Feature`; an empty list if no list is set."""
  kind = feature.WhichOneof("kind")
  return list(getattr(feature, kind).value) if kind else []


@functools.cache
def example_class() -> Any:
  """Returns the message class of tf.train.Example (tensorflow/core/example/{example,feature}.proto).

  The wire format contains no names, so the package can be ours. It has its own pool, since TensorFlow may be in this
  process too.
  """
  file = descriptor_pb2.FileDescriptorProto(name="winnow/example.proto", package=_PACKAGE, syntax="proto3")
  for name, field_type in (
    ("BytesList", _FieldType.TYPE_BYTES),
    ("FloatList", _FieldType.TYPE_FLOAT),
    ("Int64List", _FieldType.TYPE_INT64),
  ):
    _add_field(file.message_type.add(name=name), "value", 1, field_type, repeated=True)

  feature = file.message_type.add(name="Feature")
  feature.oneof_decl.add(name="kind")
  for number, name in enumerate(("bytes_list", "float_list", "int64_list"), 1):
    list_name = name.title().replace("_", "")
    _add_field(feature, name, number, _FieldType.TYPE_MESSAGE, type_name=list_name).oneof_index = 0

  features = file.message_type.add(name="Features")
  entry = features.nested_type.add(name="FeatureEntry")
  entry.options.map_entry = True
  _add_field(entry, "key", 1, _FieldType.TYPE_STRING)
  _add_field(entry, "value", 2, _FieldType.TYPE_MESSAGE, type_name="Feature")
  _add_field(features, "feature", 1, _FieldType.TYPE_MESSAGE, type_name="Features.FeatureEntry", repeated=True)

  _add_field(file.message_type.add(name="Example"), "features", 1, _FieldType.TYPE_MESSAGE, type_name="Features")

  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


def _add_field(
  parent: descriptor_pb2.DescriptorProto,
  name: str,
  number: int,
  field_type: Any,
  *,
  type_name: str = "",
  repeated: bool = False,
) -> descriptor_pb2.FieldDescriptorProto:
  field = parent.field.add(
    name=name,
    number=number,
    type=field_type,
    label=_FieldType.LABEL_REPEATED if repeated else _FieldType.LABEL_OPTIONAL,
  )
  if type_name:
    field.type_name = f".{_PACKAGE}.{type_name}"
  return field
