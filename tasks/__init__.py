"""The steps of the pipeline, one file each, and what they stand on: values, settings, errors, storage, caching.

Imports point one way: values, settings, errors ← storage ← caching ← steps ← flows.
"""
