"""Where images come from: formats, known data sets, mirrors, splits and checks. No Prefect, no TensorFlow."""
