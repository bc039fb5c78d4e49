"""What runs: the pipeline (`retrain`), the command line (`cli`), the Prefect server it reports to (`server`)."""
