"""The report: what was trained on what, how well it does, and what the gate says of it.

One set of `facts` in several forms: `page` (report.html), `words` (report.md, the run's page, the command line),
`figures` for both. Each is a function of the facts alone, so that the same model gives the same bytes.
"""
