"""What a bidirectional model (BCM, arXiv 2403.18035) can do since it follows a trajectory up: edits by inversion.

The paper's algorithms could not be read; these are this project's, built of its published steps (small noise,
amplify, invert, generate).

Note: for an exact flow map, amplifying and then denoising changes nothing: f(f(x, d -> t), t -> 0) = f(x, d -> 0). So
with a perfect model a zigzag round is the denoising of the small noise d, and inverting and regenerating an image is
one denoising at level d; all else is learning error. Every result of an inversion is to be shown beside that control,

    image_to_image(denoise, y, (d,), noise, label),      d = sigmas[0], the same draw of noise,

which takes one evaluation. On the Gaussian prior of `tasks/few_step.py`, with the exact flow, inverting a masked image
and regenerating it scores 6.5 for d = 0.07 and 14.7 for d = 1; the first step of `zero_shot` alone 8.4.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from diffusion.denoisers import Transport
from diffusion.samplers import ancestral, inversion_start, invert, zigzag
from tasks.few_step import interpolate
from tasks.operators import Operator, linear

Noise = Callable[[], Tensor]


def zigzag_edit(
    transport: Transport,
    operator: Operator,
    y: Tensor,
    rounds: Sequence[tuple[float, float]],
    noise: Noise,
    label: Tensor | None = None,
    *,
    fill: float = 1.0,
    sigma_min: float = 0.002,
    limit: float = 1.0,
) -> Tensor:
    """Restore by rounds of small noise, amplification and denoising, what is known replaced after each.

        x0 = A^+ y + (I - P) fill z
        every round (d, t):  x = f(x0 + d z, d -> t),  x0 = f(x, t -> eps) clamped,  x0 <- x0 - P x0 + A^+ y

    With a perfect model it is `zero_shot` at the levels d, but for the filling; what it gains must be learning error.

    Known bias (figures as in `tasks/few_step.py`): 7 rounds, 14 evaluations, with d from 2 to 0.3: 1.04 (1.54) | .006;
    with d = 0.07 throughout: 5.3 (5.1) | .72, since so little noise does not move what was filled in.

    Args:
        transport: a bidirectional model.
        operator: A; inpainting most of all. JPEG too, where nothing is filled in: x0 = y at first.
        y: the measurement.
        rounds: (small, large) levels, two evaluations each.
        noise: fresh standard normal noise, called len(rounds) + 1 times.
        label: (B,) or None.
        fill: standard deviation of the noise that fills what is unknown at first.
        sigma_min: the level at which trajectories end.
        limit: as in `tasks.few_step.zero_shot`.
    """
    x0 = operator.pseudo_inverse(y) + fill * operator.unknown_part(noise())
    for pair in rounds:
        x0 = zigzag(transport, x0, (pair,), noise, label, sigma_min).clamp(-limit, limit)
        x0 = operator.project(x0, y)
    return x0


def edit_by_inversion(
    transport: Transport,
    x0: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    source: Tensor | None = None,
    target: Tensor | None = None,
    *,
    way_back: Sequence[float] = (),
    sigma_min: float = 0.002,
) -> Tensor:
    """Invert images as of one class and generate from their noise as of another.

    With the same class it is inversion and regeneration, which restores blindly what a training image would not have,
    such as the blocks of a JPEG: sigmas[0] is then to be about as large as the damage.

    Args:
        transport: a bidirectional model.
        x0: images (B, C, H, W).
        sigmas: ascending, from the level of the initial noise (0: none) to the one where generation starts.
        noise: called once, for the initial noise.
        source, target: (B,) or None, the class of the image and the class to be made.
        way_back: descending levels strictly between sigmas[-1] and sigma_min that are visited; none for one evaluation.
        sigma_min: the level at which trajectories end.
    """
    inverted = invert_images(transport, x0, sigmas, noise, source, sigma_min=sigma_min)
    return ancestral(transport, inverted, (sigmas[-1], *way_back, sigma_min), target)


def restore_by_inversion(
    transport: Transport,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    way_back: Sequence[float] = (),
    sigma_min: float = 0.002,
) -> Tensor:
    """Blind restoration: `edit_by_inversion` of damaged images y (B, C, H, W) without a change of class."""
    return edit_by_inversion(transport, y, sigmas, noise, label, label, way_back=way_back, sigma_min=sigma_min)


def invert_images(
    transport: Transport,
    x0: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    sigma_min: float = 0.002,
) -> Tensor:
    """The noise at level sigmas[-1] of images x0 (B, C, H, W): a little noise at sigmas[0], then up the trajectory.

    Evaluations: len(sigmas) - 1. `noise` is called once.
    """
    start, visited = inversion_start(x0, sigmas, noise, sigma_min)
    return invert(transport, start, visited, label)


def noise_space_inpainting(
    transport: Transport,
    operator: Operator,
    y: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    way_back: Sequence[float] = (),
    sigma_min: float = 0.002,
    limit: float = 1.0,
) -> Tensor:
    """Invert what is known with the rest at 0, draw the noise of the rest anew, generate, replace what is known.

        z_T = f(A^+ y + d z, d -> T),   z_T <- P z_T + (I - P) T z',   x0 = f(z_T, T -> eps) - ... (replaced)

    Proposed by a reviewer of BCM. Evaluations: len(sigmas) + len(way_back); arguments as in `edit_by_inversion`.

    Known bias (figures as in `tasks/few_step.py`): 3.1 (2.7) | .053 for d = 0.07, 1.9 (2.4) | .021 for d = 0.3, with 2
    evaluations.

    Args:
        operator: A, linear.
        y: the measurement.
        noise: called twice, for the initial noise and for what is drawn anew.
        limit: as in `tasks.few_step.zero_shot`.

    Raises:
        ValueError: the operator is not linear.
    """
    projector = linear(operator, "noise-space inpainting")
    inverted = invert_images(transport, operator.pseudo_inverse(y), sigmas, noise, label, sigma_min=sigma_min)
    fresh = sigmas[-1] * noise()
    mixed = fresh + projector.known_part(inverted - fresh)
    x0 = ancestral(transport, mixed, (sigmas[-1], *way_back, sigma_min), label)
    return operator.project(x0.clamp(-limit, limit), y)


def interpolate_images(
    transport: Transport,
    first: Tensor,
    second: Tensor,
    shares: Sequence[float],
    sigmas: Sequence[float],
    noise: Noise,
    label: Tensor | None = None,
    *,
    way_back: Sequence[float] = (),
    sigma_min: float = 0.002,
) -> Tensor:
    """The images between two real ones: both inverted with the same initial noise, slerp, generated again.

    Evaluations: 2 (len(sigmas) - 1) for the two images, and len(way_back) + 1 for every share.

    Args:
        first, second: images (B, C, H, W).
        shares: a of every image, 0 for the first, 1 for the second (which come back as inversion leaves them).
        others: as in `edit_by_inversion`.

    Returns:
        (len(shares), B, C, H, W).
    """
    z = noise()
    a, b = (invert_images(transport, x0, sigmas, lambda: z, label, sigma_min=sigma_min) for x0 in (first, second))

    def generate(x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        return ancestral(transport, x, (sigmas[-1], *way_back, sigma_min), label)

    return interpolate(generate, a, b, shares, sigmas[-1], label)
