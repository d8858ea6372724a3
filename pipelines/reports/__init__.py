"""The page of a report and its figures, and the figures of an evaluation."""
