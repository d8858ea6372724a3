"""Encoding of documents as TFRecords of tf.train.Example, by whole columns and without TensorFlow.

Shapes: N documents, W bytes of a fixed-width row, V bytes of the widest varint.

Fields of variable size lie in Arrow arrays. The bytes between two such fields (tags, lengths, keys, the score) are at
most a few dozen. They are computed as a matrix of bytes, with a mask of those that count. Then one Arrow join copies
each text once, to its place in the framed record.
"""

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT_FEATURES = ("source", "text", "timestamp", "url")  # in the order of a deterministic serialisation
SCORE_FEATURE = "score"  # sorts before all of them
FRAME_BYTES = 16  # uint64 length, uint32 CRC of the length, uint32 CRC of the data

_CRC_BYTES = 4
_FIELD_1 = 0x0A  # field 1, length-delimited: Example.features, Features.feature, map key, bytes_list, value
_FIELD_2 = 0x12  # field 2, length-delimited: map value, float_list
_MAX_VARINT = 5  # lengths below 2^35; the limit of protobuf is 2^31

# The bytes of rows, and which of them count: uint8 [N, W] and bool [N, W].
_Rows = tuple[np.ndarray, np.ndarray]


def encode_examples(documents: pa.Table) -> pa.LargeBinaryArray:
  """Encodes each row as one framed TFRecord: large_binary [N], ready to be written one after the other.

  `documents` has the columns `text`, `url`, `timestamp`, `source` (string or large_string; a null is the empty
  string) and `score` (float32). The data of a record are the bytes of
  `tf.train.Example.SerializeToString(deterministic=True)`: features sorted by name, one value each. The frame is
  TFRecord's: uint64 length, masked CRC32C of the length, data, masked CRC32C of the data.
  """
  if not documents.num_rows:
    return pa.array([], pa.large_binary())
  values = [_values(documents, name) for name in TEXT_FEATURES]
  length_N, between = _rows_between(_scores(documents), [pc.binary_length(value).to_numpy() for value in values])
  pieces = [piece for row, value in zip(between, values, strict=False) for piece in (_binary(row), value)]
  pieces.append(pa.repeat(pa.scalar(bytes(_CRC_BYTES), pa.large_binary()), documents.num_rows))
  records = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
  _write_data_crcs(records, length_N)
  return records


def masked_crc(crc_N: np.ndarray) -> np.ndarray:
  """Masks CRC32C values as TFRecord does, uint32 [N], since a CRC over data that contain their own CRCs is weak."""
  crc_N = crc_N.astype(np.uint32)
  return ((crc_N >> np.uint32(15)) | (crc_N << np.uint32(17))) + np.uint32(0xA282EAD8)


def _values(documents: pa.Table, name: str) -> pa.LargeBinaryArray:
  chunks = documents.column(name).cast(pa.large_binary())
  column = (
    chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
  )  # combining copies even a single chunk
  return column.fill_null(b"") if column.null_count else column


def _scores(documents: pa.Table) -> np.ndarray:
  score_N = documents.column(SCORE_FEATURE).cast(pa.float32()).to_numpy()
  return score_N.astype("<f4", copy=False)


def _rows_between(score_N: np.ndarray, sizes: list[np.ndarray]) -> tuple[np.ndarray, list[_Rows]]:
  """Returns the size of each Example, uint64 [N], and the bytes before each text, one `_Rows` for each text feature."""
  num_rows = len(score_N)
  # Feature{float_list: FloatList{value: packed}} is 8 bytes whatever the score is.
  score_head = bytes((_FIELD_1, len(SCORE_FEATURE))) + SCORE_FEATURE.encode() + bytes((_FIELD_2, 8))
  score_entry = _concatenate(
    _constant(bytes((_FIELD_1, len(score_head) + 8)) + score_head + bytes((_FIELD_2, 6, _FIELD_1, 4)), num_rows),
    _all_count(score_N.view(np.uint8).reshape(num_rows, 4)),
  )
  features_N = np.full(num_rows, score_entry[0].shape[1], np.uint64)
  entries: list[_Rows] = []
  for name, size_N in zip(TEXT_FEATURES, sizes, strict=True):
    value_N = size_N.astype(np.uint64)
    bytes_list_N = _field_size(value_N)
    feature_N = _field_size(bytes_list_N)
    key = bytes((_FIELD_1, len(name))) + name.encode()
    entry_N = np.uint64(len(key)) + _field_size(feature_N)
    features_N += _field_size(entry_N)
    entries.append(
      _concatenate(
        *_head(_FIELD_1, entry_N),
        _constant(key, num_rows),
        *_head(_FIELD_2, feature_N),
        *_head(_FIELD_1, bytes_list_N),
        *_head(_FIELD_1, value_N),
      )
    )
  length_N = _field_size(features_N)
  length_bytes_NW = length_N.astype("<u8").view(np.uint8).reshape(num_rows, 8)
  length_crc_N = masked_crc(_crc32c_rows(length_bytes_NW)).astype("<u4")
  entries[0] = _concatenate(
    _all_count(length_bytes_NW),
    _all_count(length_crc_N.view(np.uint8).reshape(num_rows, _CRC_BYTES)),
    *_head(_FIELD_1, features_N),
    score_entry,
    entries[0],
  )
  return length_N, entries


def _write_data_crcs(records: pa.LargeBinaryArray, length_N: np.ndarray) -> None:
  """Writes the CRC of each record's data over its last four bytes, in place: nothing else refers to `records` yet."""
  end_N = np.frombuffer(records.buffers()[1], np.int64)[1 : len(records) + 1]
  data = np.frombuffer(records.buffers()[2], np.uint8)
  start_N = end_N - _CRC_BYTES - length_N.astype(np.int64)
  # One call a record, since no library computes the CRCs of many slices at once. It costs 0.4 to 0.7 µs for 2 kB (0.1
  # of it the CRC itself). Table lookups in NumPy, as for the lengths, would take 15 ns a byte, 30 µs for such a record.
  crcs = [google_crc32c.value(data[a:b]) for a, b in zip(start_N.tolist(), (end_N - _CRC_BYTES).tolist(), strict=True)]
  crc_N = masked_crc(np.array(crcs, np.uint32)).astype("<u4")
  data[end_N[:, None] + np.arange(-_CRC_BYTES, 0)] = crc_N.view(np.uint8).reshape(-1, _CRC_BYTES)


def _field_size(value_N: np.ndarray) -> np.ndarray:
  """Returns the size of a length-delimited field whose content has `value_N` bytes: uint64 [N]."""
  return np.uint64(1) + _varint_size(value_N) + value_N


def _varint_size(value_N: np.ndarray) -> np.ndarray:
  size_N = np.ones(len(value_N), np.uint64)
  for group in range(1, _MAX_VARINT):
    size_N += value_N >= np.uint64(1 << 7 * group)
  return size_N


def _head(tag: int, value_N: np.ndarray) -> tuple[_Rows, _Rows]:
  """Returns a tag, and the varint of a length that follows it."""
  size_N = _varint_size(value_N)
  group_V = np.arange(int(size_N.max()), dtype=np.uint64)
  digits_NV = (value_N[:, None] >> (np.uint64(7) * group_V)) & np.uint64(0x7F)
  more_NV = group_V + np.uint64(1) < size_N[:, None]
  varint_NV = (digits_NV | (more_NV.astype(np.uint64) << np.uint64(7))).astype(np.uint8)
  return _constant(bytes((tag,)), len(value_N)), (varint_NV, group_V < size_N[:, None])


def _constant(content: bytes, num_rows: int) -> _Rows:
  return _all_count(np.broadcast_to(np.frombuffer(content, np.uint8), (num_rows, len(content))))


def _all_count(bytes_NW: np.ndarray) -> _Rows:
  return bytes_NW, np.broadcast_to(np.True_, bytes_NW.shape)


def _concatenate(*rows: _Rows) -> _Rows:
  return np.concatenate([row[0] for row in rows], axis=1), np.concatenate([row[1] for row in rows], axis=1)


def _binary(rows: _Rows) -> pa.LargeBinaryArray:
  bytes_NW, counts_NW = rows
  offsets = np.concatenate([[0], counts_NW.sum(axis=1, dtype=np.int64).cumsum()])
  buffers = [None, pa.py_buffer(offsets), pa.py_buffer(bytes_NW[counts_NW])]
  return pa.Array.from_buffers(pa.large_binary(), len(bytes_NW), buffers)


def _crc_table() -> np.ndarray:
  """Returns the CRC32C (Castagnoli, reflected polynomial 0x82F63B78) of every byte: uint32 [256]."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = (table >> np.uint32(1)) ^ (np.uint32(0x82F63B78) * (table & np.uint32(1)))
  return table


_CRC_TABLE = _crc_table()


def _crc32c_rows(bytes_NW: np.ndarray) -> np.ndarray:
  """Returns the CRC32C of each row, uint32 [N], by one table lookup for each column; for rows of a few bytes."""
  crc_N = np.full(len(bytes_NW), 0xFFFFFFFF, np.uint32)
  for column in range(bytes_NW.shape[1]):
    crc_N = _CRC_TABLE[(crc_N ^ bytes_NW[:, column]) & np.uint32(0xFF)] ^ (crc_N >> np.uint32(8))
  return ~crc_N
