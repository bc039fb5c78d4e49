"""The command line `retrain`: one file for each group of commands; `main` joins them. Only tests import it."""
