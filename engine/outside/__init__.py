"""What comes from outside, and how far it is believed: text, files, programs, and what this process may use.

`foreign` text, numbers and secrets of others · `trust` whose files are believed · `programs` runs an operator's
program, bounded · `limits` open files.
"""
