"""From flags to jobs, and from jobs to one pipeline."""
