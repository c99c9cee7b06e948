"""The nouns of this project, pure: no I/O, no clock, no chance."""
