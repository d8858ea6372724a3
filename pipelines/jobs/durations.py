"""Durations, written for people."""


def duration(seconds: float) -> str:
  """Formats a time in hours, minutes and seconds, and from 24 hours on in days too: "0:01:05", "2 days 3:04:05"."""
  days, rest = divmod(max(round(seconds), 0), 86_400)
  clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
  return f"{days:,} day{'s' * (days > 1)} {clock}" if days else clock
