"""The exact selection over scores: thresholds, quotas of groups, and what one stage leaves to the next."""
