"""The experiment: every server under the same load, and the report on it (`make loadtest`)."""
