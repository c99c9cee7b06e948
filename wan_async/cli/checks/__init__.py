"""What `doctor` checks, a module a subject."""
