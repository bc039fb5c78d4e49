"""The command line `retrain`: one file for each group of commands; `main` puts them together."""
