"""One run of a batch: admission, submission, tracking, reconciliation, delivery."""
