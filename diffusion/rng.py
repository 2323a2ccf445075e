"""Random numbers as pure functions of what they are for, so that resume is exact and ranks agree."""

import contextlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


def derive_seed(seed: int, stream: str, position: int = 0) -> int:
    """Hash (seed, stream, position) to 63 bits; distinct arguments give independent generators."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), position])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


class Draws:
    """The random numbers of one training step, a pure function of (seed, stream, images seen).

    Every draw is made for the *global* batch and sliced by rank, so the result does not depend on the number of
    processes, and a resumed run needs no stored generator state.

    Args:
        seed: the run's seed, >= 0.
        images_seen: images of the global batches before this step.
        device: where the numbers are drawn; CPU and CUDA generators give different numbers.
        rank, world_size: the slice of the global batch that this process holds.
    """

    def __init__(
        self, seed: int, images_seen: int, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1
    ):
        self.seed, self.images_seen = seed, images_seen
        self.device = torch.device(device)
        self.rank, self.world_size = rank, world_size

    def stream_seed(self, stream: str) -> int:
        """The seed of a named stream at this step, the same on every rank."""
        return derive_seed(self.seed, stream, self.images_seen)

    def shared(self, stream: str) -> float:
        """A number uniform in [0, 1), the same on every rank."""
        return self.stream_seed(stream) / 2**63

    def _generator(self, stream: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.stream_seed(stream))

    def normal_like(self, x: Tensor, stream: str) -> Tensor:
        """Standard normal numbers in the shape of `x` (B, ...), x being this rank's slice."""
        shape = (len(x) * self.world_size, *x.shape[1:])
        noise = torch.randn(shape, generator=self._generator(stream), device=self.device, dtype=x.dtype)
        return noise[self.rank * len(x) : (self.rank + 1) * len(x)]

    def uniform(self, n: int, stream: str) -> Tensor:
        """`n` float64 numbers uniform in [0, 1) for this rank's slice of n images."""
        u = torch.rand(n * self.world_size, generator=self._generator(stream), device=self.device, dtype=torch.float64)
        return u[self.rank * n : (self.rank + 1) * n]


class ImageNoise:
    """Standard normal noise with one generator per image, as EDM's StackedRandomGenerator.

    Image i's numbers depend on seeds[i] alone: not on the batch it is in, nor on the device or process.

    Args:
        seeds: one integer >= 0 per image.
        image_shape: (C, H, W).
        device: where the noise is put; it is always drawn on the CPU.
    """

    def __init__(self, seeds: Sequence[int], image_shape: tuple[int, int, int], device: torch.device | str = "cpu"):
        self.generators = [torch.Generator().manual_seed(derive_seed(s, "image")) for s in seeds]
        self.image_shape, self.device = tuple(image_shape), device

    def __len__(self) -> int:
        return len(self.generators)

    def __call__(self) -> Tensor:
        """The next draw (B, C, H, W) of every image."""
        return self._draw(self.image_shape)

    def vector(self, size: int) -> Tensor:
        """The next `size` numbers of every image, (B, size): a generator's latent."""
        return self._draw((size,))

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)


def has_dropout(model: nn.Module) -> bool:
    """Whether two passes of this model would see different dropout masks."""
    return any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in model.modules())


def shared_dropout(seed: int, model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Passes of `model` in blocks of the same seed see the same dropout masks, on any device.

    The default generator of the model's device is seeded inside the block and restored after. Saving the CPU's
    generator alone, as openai/consistency_models does, shares nothing on a GPU. Without dropout nothing happens, and
    `seed` is not looked at.
    """
    if not has_dropout(model):
        return contextlib.nullcontext()
    return _seeded(seed, next(model.parameters()).device)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
