"""A hyper-parameter sweep: train one model for each combination of settings, and keep the best.

    python sweep.py                                    # near: one process for each CPU
    python sweep.py --pool tcp://127.0.0.1:5556        # far: all workers of a coordinator

Each training runs in a process of its own. One that takes too long is killed (`timeout`), one whose process
dies is tried once more (`retries`), and one that raises is reported: the sweep goes on in each case. The
model is a small logistic regression without libraries, so that the program runs anywhere; yours goes into
`train`.
"""

import argparse
import math
import random
from itertools import product

from nearfar import Pool, current_worker

GRID = {"rate": [0.01, 0.1, 1.0], "decay": [0.0, 0.001, 0.1], "steps": [50, 200]}


def data(count: int, seed: int) -> list[tuple[list[float], int]]:
    """Points in the plane, and on which side of a line they lie; one in twenty is on the wrong side."""
    dice = random.Random(seed)
    points = [[dice.uniform(-1, 1), dice.uniform(-1, 1), 1.0] for _ in range(count)]
    return [(point, int((point[0] + 2 * point[1] > 0.3) != (dice.random() < 0.05))) for point in points]


def train(settings: dict[str, float]) -> tuple[float, dict[str, float], str]:
    """The share of right answers on points that were not trained on, the settings, and where it ran."""
    weights = [0.0, 0.0, 0.0]
    training = data(200, seed=1)
    for _ in range(int(settings["steps"])):
        slope = [0.0, 0.0, 0.0]
        for point, side in training:
            error = 1 / (1 + math.exp(-sum(map(float.__mul__, weights, point)))) - side
            for axis in range(3):
                slope[axis] += error * point[axis] / len(training)
        for axis in range(3):
            weights[axis] -= settings["rate"] * (slope[axis] + settings["decay"] * weights[axis])
    tested = data(1000, seed=2)
    right = sum((sum(map(float.__mul__, weights, point)) > 0) == side for point, side in tested)
    worker = current_worker()
    return right / len(tested), settings, f"{worker.host} {worker.pid}" if worker else "here"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="find the best settings")
    parser.add_argument("--pool", metavar="ADDRESS", help="the coordinator whose workers train")
    options = parser.parse_args()
    grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    best = (0.0, grid[0], "")
    with Pool.connect(options.pool) if options.pool else Pool() as pool:
        trainings = [pool.apply_async(train, (settings,), timeout=60, retries=1) for settings in grid]
        for settings, training in zip(grid, trainings, strict=True):
            try:
                score, settings, place = training.get()
            except Exception as error:  # the training's own error, WorkerLost or TaskTimeout
                print(f"failed  {settings}: {error}")
                continue
            print(f"{score:.3f}   {settings}  ({place})")
            best = max(best, (score, settings, place), key=lambda each: each[0])
    print(f"best: {best[0]:.3f} with {best[1]}")
