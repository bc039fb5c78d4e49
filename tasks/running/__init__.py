"""What a run and the Prefect server owe each other: requests that wait for it, signs of life, a log without doubles."""
