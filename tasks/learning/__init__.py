"""Everything that needs Keras: network, training, checkpoints, model file, predictions, device, work pool.

Called by the steps and the flows. No module here imports Keras or TensorFlow at its top, only when it is called.
"""
