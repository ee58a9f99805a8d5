"""The concurrency models that drive the HTTP core: one file a model, the only network I/O."""
