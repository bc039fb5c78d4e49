"""What a verdict rests on: checks (the rows), paired statistics, baselines, and how seeds differ."""
