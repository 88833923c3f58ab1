"""The commands and their flags, by family."""
