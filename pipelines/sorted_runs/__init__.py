"""An external sort on durable files, in place of a shuffle of what is large."""
