"""Where and when the job runs: what is deployed (`prefect.yaml`), and what a server needs for it (`setup`)."""
