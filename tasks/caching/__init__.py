"""The cache: its keys (`keys`), its results in the store (`results`), and the `@step` that uses both (`steps`)."""
