"""The gate: its rows, paired statistics, the versions that a candidate is compared with, several seeds.

README.md explains it. The steps judge and publish call it; it imports neither TensorFlow nor the report.
"""
