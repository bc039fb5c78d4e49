"""The tests. They mirror `flows/` and `tasks/`; `end_to_end/` runs the whole job, `benchmarks/` times it."""
