"""Every parser of hostile bytes, with many mutated files: `make test-fuzz`; a few of them in `make test`."""

CASES = 10_000
