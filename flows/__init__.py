"""What runs: the job (`retrain`), one training on a worker (`train`), the command line.

Imports the steps in `tasks`; nothing in `tasks` imports it.
"""
