"""The same training in idiomatic PyTorch: eager, or with the whole step compiled.

    python -m tests.benchmarks.peer_torch FOLDER [--seed 0] [--bf16] [--compile]

The recipe is exactly that of Keras: Glorot-uniform kernels, zero biases, and RMSprop with its epsilon under the root;
torch.optim.RMSprop has it outside. With --bf16, oneDNN multiplies float32 in bfloat16. Needs torch and NumPy, and of
the project only `protocol`.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional

from tests.benchmarks import protocol

RATE, DECAY, EPSILON = 1e-3, 0.9, 1e-7


def network(pixels: int) -> list[Tensor]:
    """The initial parameters: kernel, bias, kernel, bias."""
    shapes = ((512, pixels), (10, 512))
    kernels = [torch.nn.init.xavier_uniform_(torch.empty(shape)) for shape in shapes]
    return [each.requires_grad_() for kernel in kernels for each in (kernel, torch.zeros(len(kernel)))]


def logits(parameters: list[Tensor], images: Tensor) -> Tensor:
    """The outputs before the softmax, which the loss includes and the accuracy does not need."""
    hidden, hidden_bias, digit, digit_bias = parameters
    return functional.linear(functional.relu(functional.linear(images, hidden, hidden_bias)), digit, digit_bias)


def step(parameters: list[Tensor], squares: list[Tensor], images: Tensor, labels: Tensor, sums: Tensor) -> None:
    """One batch: update parameters and mean squares; add loss and hits to the sums, which Keras computes too."""
    outputs = logits(parameters, images)
    loss = functional.cross_entropy(outputs, labels)
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        torch._foreach_mul_(squares, DECAY)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - DECAY)
        roots = torch._foreach_sqrt(torch._foreach_add(squares, EPSILON))
        torch._foreach_addcdiv_(parameters, gradients, roots, -RATE)
        sums += torch.stack([loss.detach() * len(labels), (outputs.argmax(1) == labels).sum().to(loss.dtype)])


def main() -> None:
    """Train, test, print the line."""
    options = protocol.options(__doc__, "--compile")
    torch.manual_seed(options.seed)
    if options.bf16:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    arrays = protocol.read(options.folder)
    images, tests = (torch.tensor(each).float() / 255 for each in (arrays.train_images, arrays.test_images))
    labels, answers = (torch.tensor(each).long() for each in (arrays.train_labels, arrays.test_labels))
    parameters = network(images.shape[1])
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    torch._dynamo.config.trace_autograd_ops = True  # forward, backward and update are one graph
    # Compiled once for any batch size: the last batch is smaller, and another compilation would take 10 s.
    train = torch.compile(step, fullgraph=True, dynamic=True) if options.compile else step
    moments = [time.perf_counter()]
    for _ in range(protocol.EPOCHS):
        sums = torch.zeros(2)
        for rows in torch.randperm(len(labels)).split(protocol.BATCH):
            train(parameters, squares, images[rows], labels[rows], sums)
        sums.tolist()
        moments.append(time.perf_counter())
    with torch.no_grad():
        accuracy = (logits(parameters, tests).argmax(1) == answers).float().mean().item()
    print(protocol.line(accuracy, moments))


if __name__ == "__main__":
    main()
