"""Where images come from: formats, known data sets, mirrors, splits and checks.

Called by the steps `download` and `preprocess`; the arrays by any room after it. No Prefect, no TensorFlow.
"""
