"""The steps of the job, one file each; a room (a package) for each subject that they are made of.

Imports point one way: values, errors ← settings ← data, storage ← registry, caching ← learning, gate, report ← steps.
"""
