"""The reference: Chollet's script, plain Keras on the same arrays. It checks, reports and publishes nothing.

python -m tests.benchmarks.reference FOLDER [--seed 0] [--bf16]    # a folder with the four MNIST .gz files

With --bf16 the layers compute in bfloat16, Keras' policy "mixed_bfloat16".
"""

from __future__ import annotations

import time

from tests.benchmarks import protocol


def main() -> None:
    """Train, test, print the line."""
    options = protocol.options(__doc__)
    arrays = protocol.read(options.folder)
    train_images = arrays.train_images.astype("float32") / 255
    test_images = arrays.test_images.astype("float32") / 255

    import keras

    keras.utils.set_random_seed(options.seed)
    if options.bf16:
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential([keras.layers.Dense(512, activation="relu"), keras.layers.Dense(10, activation="softmax")])
    model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    moments = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: moments.append(time.perf_counter()))
    model.fit(train_images, arrays.train_labels, epochs=5, batch_size=128, verbose=0, callbacks=[clock])
    _, accuracy = model.evaluate(test_images, arrays.test_labels, verbose=0)
    print(protocol.line(accuracy, moments))


if __name__ == "__main__":
    main()
