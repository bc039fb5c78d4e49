"""What a run and the Prefect server owe each other: requests that wait, signs of life, the log, the run's page."""
