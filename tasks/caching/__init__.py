"""The cache: what a result depends on (`keys`), where it is kept (`results`), the `@step` that uses both (`steps`)."""
