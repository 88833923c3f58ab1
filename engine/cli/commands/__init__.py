"""Door: the commands and their flags, by family."""
