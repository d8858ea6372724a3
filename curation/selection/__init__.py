"""Which documents are selected, exactly and in any order of reading."""
