"""What a worker process does to itself: its log, its memory, its progress, its reading ahead."""
