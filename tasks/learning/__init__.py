"""Keras behind one door: network, training, checkpoints, model file, predictions, device, work pool."""
