"""github.com/akamaster/pytorch_resnet_cifar10 in PyTorch, with its names: the networks alone."""

from __future__ import annotations

from typing import Any

WIDTHS = (16, 32, 64)


def resnet20(torch: Any, classes: int) -> Any:
    """ResNet-20 with option A for the shortcuts.

    Args:
        torch: the package, which need not be installed where this is imported.
        classes: K, the number of logits.
    """
    nn, functional = torch.nn, torch.nn.functional

    def conv(inputs: int, outputs: int, stride: int) -> Any:
        return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.conv1, self.bn1 = conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = conv(outputs, outputs, 1), nn.BatchNorm2d(outputs)

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if y.shape != x.shape:
                more = (y.shape[1] - x.shape[1]) // 2
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
            return functional.relu(x + y)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(3, WIDTHS[0], 1), nn.BatchNorm2d(WIDTHS[0])
            for stack, (inputs, width) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS), start=1):
                blocks = [Block(inputs, width, 1 if stack == 1 else 2)]
                blocks += [Block(width, width, 1) for _ in range(2)]
                setattr(self, f"layer{stack}", nn.Sequential(*blocks))
            self.linear = nn.Linear(WIDTHS[-1], classes)

        def forward(self, x: Any) -> Any:
            x = functional.relu(self.bn1(self.conv1(x)))
            x = self.layer3(self.layer2(self.layer1(x)))
            return self.linear(x.mean((2, 3)))

    return Net().eval()
