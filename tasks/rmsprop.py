"""RMSprop as Keras has it; where TensorFlow computes, its update is one kernel.

Keras writes the update as eight operations, and each goes through all weights once more, which is a third of the time
of a step. Called by the train step. Imports Keras when called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks import backend


def rmsprop(learning_rate: float) -> Any:
    """A Keras optimizer: v ← ρv + (1 - ρ)g², w ← w - learning_rate · g / √(v + ε), with Keras' ρ = 0.9 and ε = 1e-7.

    Its variables are those of `keras.optimizers.RMSprop`, by the same names.
    """
    keras = backend.keras()
    if keras.backend.backend() != "tensorflow":
        return keras.optimizers.RMSprop(learning_rate)
    import tensorflow as tf

    class RMSprop(keras.optimizers.RMSprop):  # type: ignore[misc, name-defined]
        def build(self, variables: Sequence[Any]) -> None:
            super().build(variables)
            # The kernel knows momentum too and wants room for it, which says nothing where momentum is 0.
            self._room = [tf.Variable(tf.zeros_like(variable.value)) for variable in variables]

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            number = self._get_variable_index(variable)
            tf.raw_ops.ResourceApplyRMSProp(
                var=variable.handle,
                ms=self._velocities[number].value.handle,
                mom=self._room[number].handle,
                lr=tf.cast(learning_rate, gradient.dtype),
                rho=self.rho,
                momentum=0.0,
                epsilon=self.epsilon,
                grad=gradient,
            )

    return RMSprop(learning_rate)
