"""What follows from the results: the floor, and what a sweep adds to its jobs."""

from itertools import pairwise

from fmnist.bench.results import Results, Spread

CONVOLUTIONS = ((26, 32, 3 * 3 * 1), (11, 64, 3 * 3 * 32))  # output side, channels, inputs of each
DENSE = ((1600, 128), (128, 10))


def flops_per_image() -> int:
    """Return the floating point operations of training on one image: 0.95 TFLOP for 60,000.

    Two per multiplication; forward, and as much again for each of the two gradients. The first
    layer's gradient by its input, which nobody needs, is counted in.
    """
    forward = sum(2 * side * side * channels * inputs for side, channels, inputs in CONVOLUTIONS)
    forward += sum(2 * inputs * outputs for inputs, outputs in DENSE)
    return 3 * forward


def best_rate(results: Results) -> float | None:
    """Return the best matrix-multiply rate of any round and type, in TFLOP/s."""
    spreads = [results.spread("matmul", "machine", name) for name in ("float32", "bfloat16")]
    return max((spread.high for spread in spreads if spread), default=None)


def floor_s(num_images: float, tflops: float) -> float:
    """Return the least seconds to train on `num_images` images at `tflops` TFLOP/s.

    Without validation, and as if every product ran as fast as that of large square matrices.
    """
    return num_images * flops_per_image() / (tflops * 1e12)


def floor_ratio(results: Results, case: str, name: str = "ours") -> Spread | None:
    """Return epoch / floor, the floor by the images that were trained on."""
    rate, epoch = best_rate(results), results.spread(case, name, "epoch_s")
    images = results.spread(case, name, "num_images")
    if not (rate and epoch and images):
        return None
    least = floor_s(images.median, rate)
    return Spread(epoch.median / least, epoch.low / least, epoch.high / least, epoch.n)


def job_costs(results: Results) -> dict[str, float]:
    """Return the seconds that a job costs beyond its training, by the jobs it is the mean of.

    Two sweeps that differ in length differ by those jobs alone: start-up and end cancel. The last
    is that of all jobs after the shortest sweep's.
    """
    names = list(results.cases.get("sweep", {}))
    pairs = list(pairwise(names))
    if len(names) > 2:
        pairs.append((names[0], names[-1]))
    found = {}
    for short, long in pairs:
        more = {}
        for value in ("wall_s", "train_s", "num_jobs"):
            ends = [results.spread("sweep", name, value) for name in (short, long)]
            if not all(ends):
                return {}
            more[value] = ends[1].median - ends[0].median  # type: ignore[union-attr]
        jobs = f"{short.split()[0]} to {long.split()[0]}"
        found[jobs] = (more["wall_s"] - more["train_s"]) / more["num_jobs"]
    return found
