"""Policy steps a CPU-second of highway traffic: ours beside highway-env, same vehicles and lanes.

    python -m venv peer && peer/bin/pip install highway-env
    python benchmarks/traffic.py --peer peer/bin/python

The peer runs in a Python of its own, from this file. A policy step is what `env.step` does: all
vehicles simulated for a second (15 Hz; highway-fast-v0: 5 Hz) with lateral dynamics, IDM and MOBIL,
and the observation "Kinematics"; the action is always IDLE, a road that crashed starts anew, which
counts. Ours: 64 roads on one thread, compilation apart. Printed as well: one road of the peer's
replayed by ours from the same start, and how far the two traffics drift apart in 10 s.
"""

import argparse
import json
import subprocess
import sys
import time

WORLDS = {"highway-v0": (50, 4, 2.0, 15), "highway-fast-v0": (20, 3, 1.5, 5)}
"""Vehicles, lanes, spacing of the ego, simulation in Hz."""
IDLE = 1
REPLAYED_S = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with highway-env installed")
    parser.add_argument("--seconds", type=float, default=6.0, help="CPU-seconds for each")
    parser.add_argument("--as-peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        print(json.dumps({name: peer(name, options.seconds) for name in WORLDS}))
        return
    peers = {}
    if options.peer:
        command = [options.peer, __file__, "--as-peer", "--seconds", str(options.seconds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        peers = json.loads(done.stdout.splitlines()[-1])
    for name in WORLDS:
        rate = ours(name, options.seconds)
        print(f"{name:16} ours        {rate:9.1f} policy steps/CPU-s")
        if name in peers:
            beside = peers[name]["rate"]
            print(f"{name:16} highway-env {beside:9.1f} policy steps/CPU-s   {rate / beside:.0f} x")
            drift_m, seen = replay(name, peers[name]["moments"])
            print(f"{name:16} replayed {REPLAYED_S} s: positions within {drift_m:.2e} m,", end=" ")
            print(f"observations within {seen:.2e}")


def ours(name: str, seconds: float) -> float:
    """Policy steps a CPU-second of our traffic."""
    import numpy as np

    from gigafactory.jobs.worlds import traffic

    vehicles, lanes, spacing, hertz = WORLDS[name]
    n, taken_s, steps = 64, 0.0, 0
    actions, live, idle = np.zeros((n, 2)), np.ones(n, bool), np.full(n, IDLE)
    start = traffic.highway(list(range(n)), vehicles, lanes, spacing)
    cars, roads, people = (table.copy() for table in start)
    duration_s = 40 if hertz == 15 else 30
    while taken_s < seconds:
        begun_s = time.process_time()
        traffic.meta(cars, roads, idle)
        traffic.step(cars, roads, people, actions, live, 1 / hertz, hertz)
        traffic.kinematics(cars, roads, 5)
        over = (cars[:, 0, traffic.CRASHED] > 0) | (roads[:, traffic.TIME_S] > duration_s - 0.5)
        if over.any():
            seeds = (steps + np.flatnonzero(over)).tolist()
            cars[over], roads[over], _ = traffic.highway(seeds, vehicles, lanes, spacing)
        steps += n
        if steps > n:  # the first one compiles
            taken_s += time.process_time() - begun_s
    return (steps - n) / taken_s


def replay(name: str, moments: list[dict]) -> tuple[float, float]:
    """Ours from the peer's start: largest difference of a position, m, and of an observation."""
    import numpy as np

    from gigafactory.jobs.worlds import traffic

    vehicles, lanes, _, hertz = WORLDS[name]
    cars, roads, people = traffic.highway([0], vehicles, lanes)
    for column, figures in moments[0]["cars"].items():
        cars[0, :, getattr(traffic, column)] = figures
    drift_m = seen = 0.0
    for moment in moments[1:]:
        actions, live = np.zeros((1, 2)), np.ones(1, bool)
        traffic.meta(cars, roads, np.array([IDLE]))
        traffic.step(cars, roads, people, actions, live, 1 / hertz, hertz)
        for column in ("X", "Y"):
            apart = cars[0, :, getattr(traffic, column)] - moment["cars"][column]
            drift_m = max(drift_m, float(np.abs(apart).max()))
        apart = traffic.kinematics(cars, roads, 5)[0] - np.array(moment["observation"])
        seen = max(seen, float(np.abs(apart).max()))
    return drift_m, seen


def peer(name: str, seconds: float) -> dict:
    """highway-env's policy steps a CPU-second, and one of its roads second by second."""
    import gymnasium
    import highway_env

    gymnasium.register_envs(highway_env)
    env = gymnasium.make(name)
    moments = []
    for seed in range(1, 20):
        seen, _ = env.reset(seed=seed)
        moments, crashed = [state(env, seen)], False
        for _ in range(REPLAYED_S):
            seen = env.step(IDLE)[0]
            moments.append(state(env, seen))
            crashed |= any(car.crashed for car in env.unwrapped.road.vehicles)
        if not crashed:  # what becomes of wrecks is not ours to copy
            break
    env.reset(seed=0)
    taken_s, steps = 0.0, 0
    while taken_s < seconds:
        begun_s = time.process_time()
        _, _, over, out_of_time, _ = env.step(IDLE)
        if over or out_of_time:
            env.reset()
        taken_s += time.process_time() - begun_s
        steps += 1
    return {"rate": steps / taken_s, "moments": moments}


def state(env, seen) -> dict:
    """The peer's vehicles, ego first, as our columns."""
    cars = env.unwrapped.road.vehicles
    columns = {
        "X": [car.position[0] for car in cars],
        "Y": [car.position[1] for car in cars],
        "HEADING": [car.heading for car in cars],
        "SPEED": [car.speed for car in cars],
        "WANTED": [car.target_speed for car in cars],
        "LANE": [car.lane_index[2] for car in cars],
        "TARGET": [car.target_lane_index[2] for car in cars],
        "TIMER": [getattr(car, "timer", 0.0) for car in cars],
        "EXPONENT": [getattr(car, "DELTA", 4.0) for car in cars],
    }
    numbers = {name: [float(one) for one in figures] for name, figures in columns.items()}
    return {"cars": numbers, "observation": seen.tolist()}


if __name__ == "__main__":
    sys.exit(main())
