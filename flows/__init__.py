"""What runs: the job (`retrain`), one training on a worker (`train`), `watch` for new batches, the command line.

Imports the steps in `tasks`; nothing in `tasks` imports it.
"""
