"""Traffic on straight roads of several lanes: n roads, v vehicles each, stepped together, compiled.

Everything is an array, changed in place: `cars (n, v, CAR)`, `roads (n, ROAD)`,
`people (n, p, PERSON)`, float64; the columns are named below. A road never sees its neighbours, and
no random number is drawn here, so equal rows give equal bytes whatever n is. Vehicle 0 is the ego.

Axes: x along the road, y to the RIGHT of it, headings clockwise (as highway-env has them); lane k
has its centre at y = k × lane width, lane 0 is the leftmost, lane `LANES` an on-ramp that runs
beside the road and ends at `RAMP_END_M`. SI units, radians.

Models: kinematic bicycle with the reference point in the middle (Polack et al. 2017,
doi:10.1109/IVS.2017.7995816), steering limited in angle and rate, tyres in grip; IDM (Treiber et
al. 2000, doi:10.1103/PhysRevE.62.1805); MOBIL (Kesting et al. 2007, doi:10.3141/1999-10); lane
keeping, observation and the constants of `highway` as in highway-env (Leurent 2018), formula by
formula.

All compiled functions live in this one file: numba's cache does not see a change in a callee that
lies elsewhere.
"""

import numpy as np
from numba import njit

# Columns of a vehicle: its state,
X, Y, HEADING, SPEED, STEERING, ACCELERATION, LANE, TARGET, TIMER, CRASHED = range(10)
# its driver (see `IDM`; CONTROL says who that is),
CONTROL, WANTED, HEADWAY_S, JAM_GAP_M, ACCEL, BRAKE, EXPONENT, LATERAL_SPEED = range(10, 18)
# its body (KIND 0: nobody is there),
KIND, LENGTH, WIDTH = range(18, 21)
# and its script: at CUT_S (and, where CUT_GAP_M >= 0, once it is so far ahead of the ego, in the
# lane beside) it goes to CUT_LANE within CUT_DURATION_S; BRAKE_AFTER_S later it brakes with
# BRAKE_M_S2 down to BRAKE_TO. CUT_S inf: no script; CUT_AGE_S: time since it began, -1: not yet.
# REACTION_S: how long this driver takes to see that another one's script began.
CUT_S, CUT_GAP_M, CUT_LANE, CUT_DURATION_S, CUT_AGE_S, CUT_DONE, CUT_FROM_M = range(21, 28)
BRAKE_AFTER_S, BRAKE_M_S2, BRAKE_TO, REACTION_S = range(28, 32)
CAR = 32
# Columns of a road. CENTRE_GAPS 1: gaps are measured from centre to centre, as highway-env does,
# 0: from bumper to bumper. GRIP is the largest acceleration in m/s² that tyres transmit.
LANES, LANE_WIDTH_M, LIMIT, RAMP_START_M, RAMP_END_M, TIME_S, CENTRE_GAPS, GRIP, STEER_RATE = range(
    9
)
ROAD = 9
# Columns of a person. They stand (WALK 0) beside the road until START_S, then until every vehicle
# that comes could stop with ACCEPT m/s², and cross (WALK 1) at PACE m/s (sign: direction) to END_Y.
PERSON_X, PERSON_Y, PACE, START_S, ACCEPT, WALK, END_Y = range(7)
PERSON = 7
# Who drives.
IDM_MOBIL, ACTIONS, META, IDM_ONLY = 0.0, 1.0, 2.0, 3.0
# Why an ego stands.
HIT_VEHICLE, HIT_PERSON, OFF_ROAD = 1.0, 2.0, 3.0

STEER_MAX = np.pi / 3
CALM_HEADING_S, CALM_LATERAL_S = 0.5, 1.2
TAU_ACCELERATION_S, TAU_HEADING_S, TAU_LATERAL_S = 0.6, 0.2, 0.6
ACCEL_LIMIT = 6.0  # m/s², of traffic
CHANGE_GAIN = 0.2  # m/s² that a lane change must promise
CHANGE_IMPOSED = 2.0  # m/s² that it may impose on the new follower
CHANGE_DELAY_S = 1.0
RAMP_IMPOSED = 3.0
GIVES_UP_S = 15.0  # after so long without a chance to cut in
SEEN_M = 200.0
STOP_BRAKE = 2.5  # m/s² at which a driver begins to stop before a person or the end of a ramp
RAMP_ROOM_M = 12.0  # who could not merge waits so far before the ramp's end: room to turn out
PERSON_MARGIN_M = 3.0
PERSON_RADIUS_M = 0.3
OUT_OF_WAY_M = 2.4  # who has walked so far past a vehicle's middle is out of its way


# Divisions are guarded where they must be; numba's own checks would double the code to compile.
compiled = njit(cache=True, nogil=True, error_model="numpy")


def empty(n: int, vehicles: int, people: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`cars`, `roads`, `people` with nobody on them: one lane, highway-env's drivers, no script."""
    cars = np.zeros((n, vehicles, CAR))
    cars[:, :, [WANTED, HEADWAY_S, JAM_GAP_M]] = 30.0, 1.5, 10.0
    cars[:, :, [ACCEL, BRAKE, EXPONENT, LATERAL_SPEED]] = 3.0, 5.0, 4.0, np.inf
    cars[:, :, [LENGTH, WIDTH]] = 5.0, 2.0
    cars[:, :, [CUT_S, BRAKE_AFTER_S]] = np.inf
    cars[:, :, [CUT_GAP_M, CUT_AGE_S]] = -1.0
    roads = np.zeros((n, ROAD))
    roads[:, [LANES, LANE_WIDTH_M, LIMIT]] = 1.0, 4.0, 30.0
    roads[:, [RAMP_START_M, RAMP_END_M]] = np.inf, -np.inf
    roads[:, [CENTRE_GAPS, GRIP, STEER_RATE]] = 1.0, np.inf, np.inf
    standing = np.zeros((n, people, PERSON))
    standing[:, :, START_S] = np.inf
    return cars, roads, standing


def highway(
    seeds: list[int], vehicles: int = 50, lanes: int = 4, ego_spacing: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The start of highway-env's `highway-v0`: an ego (CONTROL META) and `vehicles` others.

    Drawn as highway-env draws it (the same distributions, not the same numbers). `highway-fast-v0`
    is (20 vehicles, 3 lanes, spacing 1.5) at 5 Hz.
    """
    cars, roads, people = empty(len(seeds), vehicles + 1)
    roads[:, LANES] = lanes
    for road, seed in zip(cars, seeds, strict=True):
        rng = np.random.default_rng(seed)
        speed = rng.uniform(0.7 * 30, 0.8 * 30, vehicles + 1)
        speed[0] = 25.0
        spacing = np.where(np.arange(vehicles + 1) == 0, ego_spacing, 1.0)
        offset = spacing * (12 + speed) * np.exp(-5 / 40 * lanes)
        road[:, X] = np.cumsum(offset * rng.uniform(0.9, 1.1, vehicles + 1)) + 3 * offset[0]
        road[:, LANE] = road[:, TARGET] = rng.integers(lanes, size=vehicles + 1)
        road[:, Y] = 4.0 * road[:, LANE]
        road[:, SPEED] = road[:, WANTED] = speed
        road[:, TIMER] = (road[:, X] + road[:, Y]) * np.pi % CHANGE_DELAY_S
        road[1:, EXPONENT] = rng.uniform(3.5, 4.5, vehicles)
    cars[:, :, KIND] = 1.0
    cars[:, 0, CONTROL] = META
    return cars, roads, people


@compiled
def step(
    cars: np.ndarray,
    roads: np.ndarray,
    people: np.ndarray,
    actions: np.ndarray,
    live: np.ndarray,
    dt_s: float,
    substeps: int,
) -> None:
    """Let every road with `live[i]` go on by `substeps` times `dt_s`, in place.

    `actions (n, 2)`: acceleration in m/s² and steering angle in rad of an ego whose CONTROL is
    ACTIONS; nobody else looks at it.
    """
    for i in range(cars.shape[0]):
        if live[i]:
            for _ in range(substeps):
                _decide(cars[i], roads[i], people[i], actions[i], dt_s)
                for j in range(cars.shape[1]):
                    if cars[i, j, KIND] > 0:
                        _move(cars[i], j, roads[i], dt_s)
                _walk(cars[i], roads[i], people[i], dt_s)
                _collide(cars[i], roads[i], people[i])
                roads[i, TIME_S] += dt_s


@compiled
def meta(cars: np.ndarray, roads: np.ndarray, action: np.ndarray) -> None:
    """Tell META egos highway-env's action: 0 left, 1 idle, 2 right, 3 faster, 4 slower."""
    for i in range(cars.shape[0]):
        ego = cars[i, 0]
        if action[i] == 0:
            ego[TARGET] = max(ego[TARGET] - 1, 0)
        elif action[i] == 2:
            ego[TARGET] = min(ego[TARGET] + 1, roads[i, LANES] - 1)
        elif action[i] >= 3:
            now = min(max(np.round((ego[SPEED] - 20) / 5), 0), 2)
            now += 1 if action[i] == 3 else -1
            ego[WANTED] = 20 + 5 * min(max(now, 0), 2)


@compiled
def kinematics(cars: np.ndarray, roads: np.ndarray, rows: int) -> np.ndarray:
    """highway-env's observation "Kinematics" (n, rows, 5): presence, x, y, vx, vy, normalised.

    Row 0 is the ego; then the vehicles nearest along the road, relative to it, none farther than
    200 m nor 10 m behind.
    """
    n, v = cars.shape[0], cars.shape[1]
    seen = np.zeros((n, rows, 5), np.float32)
    for i in range(n):
        ego = cars[i, 0]
        vx, vy = ego[SPEED] * np.cos(ego[HEADING]), ego[SPEED] * np.sin(ego[HEADING])
        y_range = 4.0 * roads[i, LANES]
        _row(seen[i, 0], ego[X], ego[Y], vx, vy, y_range)
        distance = np.full(v, np.inf)
        for j in range(1, v):
            dx, dy = cars[i, j, X] - ego[X], cars[i, j, Y] - ego[Y]
            near = np.sqrt(dx * dx + dy * dy) < SEEN_M and dx > -2 * ego[LENGTH]
            if near and cars[i, j, KIND] > 0:
                distance[j] = abs(dx)
        for row in range(1, rows):
            j = int(np.argmin(distance))
            if distance[j] == np.inf:
                break
            distance[j] = np.inf
            c = cars[i, j]
            other_vx, other_vy = c[SPEED] * np.cos(c[HEADING]), c[SPEED] * np.sin(c[HEADING])
            x, y = c[X] - ego[X], c[Y] - ego[Y]
            _row(seen[i, row], x, y, other_vx - vx, other_vy - vy, y_range)
    return seen


@compiled
def _row(out: np.ndarray, x: float, y: float, vx: float, vy: float, y_range: float) -> None:
    out[0] = 1.0
    out[1] = min(max(x / 200.0, -1.0), 1.0)
    out[2] = min(max(y / y_range, -1.0), 1.0)
    out[3] = min(max(vx / 80.0, -1.0), 1.0)
    out[4] = min(max(vy / 80.0, -1.0), 1.0)


@compiled
def lane_at(y: float, road: np.ndarray) -> float:
    """The lane whose centre is nearest; the ramp counts where there is one."""
    last = road[LANES] if road[RAMP_END_M] > -np.inf else road[LANES] - 1
    return min(max(np.ceil(y / road[LANE_WIDTH_M] - 0.5), 0.0), last)


@compiled
def idm(
    driver: np.ndarray, limit: float, speed: float, wanted: float, gap_m: float, closing: float
) -> float:
    """IDM's acceleration, m/s²; `gap_m` inf on a free road, `closing` > 0 where it shrinks."""
    v0 = _not_zero(min(max(wanted, 0.0), limit))
    ratio = max(speed, 0.0) / v0
    power = driver[EXPONENT]
    free = ratio * ratio * ratio * ratio if power == 4.0 else ratio**power
    acceleration = driver[ACCEL] * (1.0 - free)
    if gap_m < np.inf:
        desired = driver[JAM_GAP_M] + speed * driver[HEADWAY_S]
        desired += speed * closing / (2.0 * np.sqrt(driver[ACCEL] * driver[BRAKE]))
        ratio = desired / _not_zero(gap_m)
        acceleration -= driver[ACCEL] * ratio * ratio
    return acceleration


@compiled
def _not_zero(value: float) -> float:
    if abs(value) > 1e-2:
        return value
    return 1e-2 if value >= 0 else -1e-2


@compiled
def _judge(driver: np.ndarray, cars: np.ndarray, j: int, k: int, road: np.ndarray) -> float:
    """IDM's acceleration of vehicle j behind vehicle k (-1: nobody), as `driver` would drive."""
    if j < 0:
        return 0.0
    me = cars[j]
    gap_m, closing = np.inf, 0.0
    if k >= 0:
        gap_m = cars[k, X] - me[X]
        if road[CENTRE_GAPS] == 0:
            # Touching is not standing far in front of the other: never a gap below a hand.
            gap_m = max(gap_m - 0.5 * (cars[k, LENGTH] + me[LENGTH]), 0.1)
        # The other's velocity along my direction.
        closing = me[SPEED] - cars[k, SPEED] * np.cos(cars[k, HEADING] - me[HEADING])
    return idm(driver, road[LIMIT], me[SPEED], me[WANTED], gap_m, closing)


@compiled
def _neighbours(cars: np.ndarray, j: int, lane: float, road: np.ndarray) -> tuple[int, int]:
    """The vehicles ahead of and behind vehicle j in `lane` (-1: nobody)."""
    ahead, behind = -1, -1
    ahead_m, behind_m = np.inf, -np.inf
    x, centre_m, reach_m = cars[j, X], lane * road[LANE_WIDTH_M], 0.5 * road[LANE_WIDTH_M] + 1.0
    for k in range(cars.shape[0]):
        other = cars[k]
        if k == j or other[KIND] == 0:
            continue
        if abs(other[Y] - centre_m) > reach_m and (
            # A car that is on its way into the lane is there, for who looks (not in highway-env).
            road[CENTRE_GAPS] != 0
            or other[TARGET] != lane
            or (0.0 <= other[CUT_AGE_S] < cars[j, REACTION_S])
        ):
            continue
        s = other[X]
        if x <= s <= ahead_m:
            ahead, ahead_m = k, s
        if behind_m < s < x:
            behind, behind_m = k, s
    return ahead, behind


@compiled
def _decide(
    cars: np.ndarray, road: np.ndarray, people: np.ndarray, action: np.ndarray, dt_s: float
) -> None:
    """Everybody's target lane, wheel and acceleration, in turn, as highway-env does it."""
    width_m = road[LANE_WIDTH_M]
    for j in range(cars.shape[0]):
        me = cars[j]
        if me[KIND] == 0 or me[CRASHED] > 0:
            continue
        if me[CONTROL] == ACTIONS:
            # Others see where it will be in a second, as they see an indicator.
            me[TARGET] = lane_at(me[Y] + me[SPEED] * np.sin(me[HEADING]), road)
            me[ACCELERATION] = action[0]
            _steer(me, action[1], road, dt_s)
            continue
        if me[CONTROL] == META:
            _keep_lane(me, me[TARGET] * width_m, road, dt_s)
            me[ACCELERATION] = (me[WANTED] - me[SPEED]) / TAU_ACCELERATION_S
            continue
        if me[CUT_AGE_S] < 0 and road[TIME_S] >= me[CUT_S]:
            if me[CUT_GAP_M] >= 0:
                _stalk(me, cars[0], road)
            _begin_script(cars, j, road)
        if me[CONTROL] == IDM_MOBIL and me[CUT_S] == np.inf:
            _change_lane(cars, j, road)
        _keep_lane(me, me[TARGET] * width_m, road, dt_s)
        ahead, _ = _neighbours(cars, j, me[LANE], road)
        acceleration = _judge(me, cars, j, ahead, road)
        if me[TARGET] != me[LANE]:
            ahead, _ = _neighbours(cars, j, me[TARGET], road)
            acceleration = min(acceleration, _judge(me, cars, j, ahead, road))
        acceleration = min(acceleration, _stop_before(me, road, people))
        if me[LANE] == road[LANES] - 1 and road[RAMP_END_M] > me[X] and me[SPEED] > 6.0:
            acceleration = min(acceleration, _let_in(cars, j, road))
        if me[CUT_AGE_S] >= me[BRAKE_AFTER_S]:
            if me[SPEED] > me[BRAKE_TO]:
                acceleration = min(acceleration, -me[BRAKE_M_S2])
            else:
                me[WANTED], me[BRAKE_AFTER_S] = me[BRAKE_TO], np.inf
        me[ACCELERATION] = min(max(acceleration, -ACCEL_LIMIT), ACCEL_LIMIT)


@compiled
def _let_in(cars: np.ndarray, j: int, road: np.ndarray) -> float:
    """A driver's courtesy to the next one on the ramp, where it may merge: 1.5 m/s² at most."""
    first = -1
    for k in range(cars.shape[0]):
        other = cars[k]
        if other[KIND] > 0 and other[LANE] >= road[LANES] and other[X] > road[RAMP_START_M] - 30.0:
            ahead = other[X] - 0.5 * other[LENGTH] > cars[j, X]
            if ahead and (first < 0 or other[X] < cars[first, X]):
                first = k
    return max(_judge(cars[j], cars, j, first, road), -1.5)


@compiled
def _stalk(me: np.ndarray, ego: np.ndarray, road: np.ndarray) -> None:
    """Who means to cut in before the ego drives so as to get there, and gives up after a while."""
    me[WANTED] = road[LIMIT]
    if abs(me[LANE] - ego[LANE]) == 1:
        gap_m = me[X] - ego[X] - 0.5 * (me[LENGTH] + ego[LENGTH])
        pace = ego[SPEED] + 0.4 * (me[CUT_GAP_M] + 3.0 - gap_m)
        me[WANTED] = min(max(pace, 0.6 * road[LIMIT]), 1.0 * road[LIMIT])
    if road[TIME_S] > me[CUT_S] + GIVES_UP_S:
        me[CUT_S] = np.inf


@compiled
def _begin_script(cars: np.ndarray, j: int, road: np.ndarray) -> None:
    """Begin to cut in, where it is time and (if it waits for the ego) the chance is there."""
    me, ego = cars[j], cars[0]
    if me[CUT_GAP_M] >= 0:
        gap_m = me[X] - ego[X] - 0.5 * (me[LENGTH] + ego[LENGTH])
        if not me[CUT_GAP_M] <= gap_m <= me[CUT_GAP_M] + 15.0:
            return
        if abs(me[LANE] - ego[LANE]) != 1 or me[LANE] != me[TARGET] or me[SPEED] < 5.0:
            return
        ahead, behind = _neighbours(cars, j, ego[LANE], road)
        closing = max(ego[SPEED] - me[SPEED], 0.0)
        if 0.5 * closing * closing > 1.5 * (gap_m - 3.0):
            return  # mean, not mad: the ego can avoid it
        if behind > 0 or ego[LANE] >= road[LANES]:
            return  # somebody else is between, or the ramp is no place to cut in
        if ahead >= 0 and cars[ahead, X] - me[X] < 0.5 * (cars[ahead, LENGTH] + me[LENGTH]) + 3.0:
            return
        me[CUT_LANE] = ego[LANE]
    me[CUT_AGE_S], me[CUT_DONE], me[CUT_FROM_M] = 0.0, 0.0, me[Y]
    me[TARGET] = me[CUT_LANE]


@compiled
def _change_lane(cars: np.ndarray, j: int, road: np.ndarray) -> None:
    """MOBIL, once a second; a lane change under way is given up where another wants the place."""
    me = cars[j]
    on_ramp = me[LANE] >= road[LANES]
    if me[LANE] != me[TARGET]:
        for k in range(cars.shape[0]):
            other = cars[k]
            d = other[X] - me[X]
            if (
                k != j
                and other[KIND] > 0
                and other[LANE] != me[TARGET]
                and other[TARGET] == me[TARGET]
                and d > 0
            ):
                closing = me[SPEED] - other[SPEED] * np.cos(other[HEADING] - me[HEADING])
                desired = me[JAM_GAP_M] + me[SPEED] * me[HEADWAY_S]
                desired += me[SPEED] * closing / (2.0 * np.sqrt(me[ACCEL] * me[BRAKE]))
                if d < desired:
                    me[TARGET] = me[LANE]
                    break
        return
    if not on_ramp and not me[TIMER] > CHANGE_DELAY_S:
        return
    me[TIMER] = 0.0
    if abs(me[SPEED]) < 1 and not on_ramp:
        return
    here = me[LANE]
    for side in (-1, 1):
        lane = here + side
        if lane < 0 or lane >= road[LANES] or (on_ramp and me[X] < road[RAMP_START_M]):
            continue
        if _mobil(cars, j, lane, road, on_ramp):
            me[TARGET] = lane


@compiled
def _mobil(cars: np.ndarray, j: int, lane: float, road: np.ndarray, must: bool) -> bool:
    """Whether to change to `lane`: safe for the follower there, and (unless one must) faster."""
    me = cars[j]
    new_ahead, new_behind = _neighbours(cars, j, lane, road)
    if road[CENTRE_GAPS] == 0:
        # highway-env's drivers do not look beside them.
        for k in (new_ahead, new_behind):
            if k >= 0 and abs(cars[k, X] - me[X]) < 0.5 * (cars[k, LENGTH] + me[LENGTH]) + 2.0:
                return False
    imposed = RAMP_IMPOSED if must else CHANGE_IMPOSED
    if _judge(me, cars, new_behind, j, road) < -imposed:
        return False
    there = _judge(me, cars, j, new_ahead, road)
    if must:
        return there > -RAMP_IMPOSED
    ahead, _ = _neighbours(cars, j, me[LANE], road)
    return there - _judge(me, cars, j, ahead, road) >= CHANGE_GAIN


@compiled
def _stop_before(me: np.ndarray, road: np.ndarray, people: np.ndarray) -> float:
    """The acceleration that stops before a walking person and the ramp's end; inf: no need yet."""
    distance_m = np.inf
    front_m = me[X] + 0.5 * me[LENGTH]
    if me[LANE] >= road[LANES] and me[TARGET] == me[LANE]:
        distance_m = road[RAMP_END_M] - front_m - RAMP_ROOM_M
    for k in range(people.shape[0]):
        person = people[k]
        if person[WALK] == 1 and person[PERSON_X] + PERSON_RADIUS_M > front_m:
            side = 1.0 if person[PACE] > 0 else -1.0
            # Until they have left my way; whoever is on the road is expected to go on.
            if (me[Y] - person[PERSON_Y]) * side > -OUT_OF_WAY_M:
                distance_m = min(distance_m, person[PERSON_X] - front_m - PERSON_MARGIN_M)
    return stop(me[SPEED], distance_m)


@compiled
def stop(speed: float, distance_m: float) -> float:
    """The acceleration that stops within `distance_m`; inf while less than STOP_BRAKE would do."""
    if distance_m == np.inf:
        return np.inf
    needed = 0.5 * speed * speed / max(distance_m, 0.1)
    if needed < STOP_BRAKE and not (distance_m < 1.0):
        return np.inf
    return -max(needed, 1.0)


@compiled
def _keep_lane(me: np.ndarray, centre_m: float, road: np.ndarray, dt_s: float) -> None:
    """highway-env's cascade: offset → lateral speed → heading → heading rate → steering angle."""
    speed = _not_zero(me[SPEED])
    # A wheel that takes its time wants a calmer hand than highway-env's, which turns at once.
    calm = road[STEER_RATE] < np.inf
    lateral = -(me[Y] - centre_m) / (CALM_LATERAL_S if calm else TAU_LATERAL_S)
    lateral = min(max(lateral, -me[LATERAL_SPEED]), me[LATERAL_SPEED])
    heading = np.arcsin(min(max(lateral / speed, -1.0), 1.0))
    most = 0.25 if calm else np.pi / 4
    heading = min(max(heading, -most), most)
    turn = (heading - me[HEADING] + np.pi) % (2 * np.pi) - np.pi
    rate = turn / (CALM_HEADING_S if calm else TAU_HEADING_S)
    slip_sine = min(max(0.5 * me[LENGTH] / speed * rate, -1.0), 1.0)
    if calm:
        slip_sine = min(max(slip_sine, -0.25), 0.25)
    cosine = np.sqrt(max(1.0 - slip_sine * slip_sine, 1e-12))
    _steer(me, np.arctan(2.0 * slip_sine / cosine), road, dt_s)


@compiled
def _steer(me: np.ndarray, angle: float, road: np.ndarray, dt_s: float) -> None:
    """Turn the wheel towards `angle`, as far as one step lets it."""
    angle = min(max(angle, -STEER_MAX), STEER_MAX)
    reach = road[STEER_RATE] * dt_s
    me[STEERING] = min(max(angle, me[STEERING] - reach), me[STEERING] + reach)


@compiled
def _move(cars: np.ndarray, j: int, road: np.ndarray, dt_s: float) -> None:
    me = cars[j]
    if me[CRASHED] > 0:
        me[STEERING], me[ACCELERATION] = 0.0, -me[SPEED]
    me[ACCELERATION] = min(max(me[ACCELERATION], -road[GRIP]), road[GRIP])
    if me[SPEED] > 40.0:
        me[ACCELERATION] = min(me[ACCELERATION], 40.0 - me[SPEED])
    me[TIMER] += dt_s
    if me[CUT_AGE_S] >= 0 and me[CRASHED] == 0:
        _follow_script(me, road, dt_s)
    else:
        # tan of the slip angle: half of the wheel's, for the reference point is in the middle.
        slip = 0.5 * np.tan(me[STEERING])
        cosine = 1.0 / np.sqrt(1.0 + slip * slip)
        sine = slip * cosine
        rate = me[SPEED] * sine / (0.5 * me[LENGTH])
        most = road[GRIP] / max(abs(me[SPEED]), 0.1)
        if abs(rate) > most:  # the tyres slide: it turns no faster than they hold
            rate = most if rate > 0 else -most
            sine = rate * 0.5 * me[LENGTH] / me[SPEED]
            cosine = np.sqrt(1.0 - sine * sine)
        ch, sh = np.cos(me[HEADING]), np.sin(me[HEADING])
        me[X] += me[SPEED] * (ch * cosine - sh * sine) * dt_s
        me[Y] += me[SPEED] * (sh * cosine + ch * sine) * dt_s
        me[HEADING] += rate * dt_s
    speed = me[SPEED] + me[ACCELERATION] * dt_s
    if road[CENTRE_GAPS] == 0:
        speed = max(speed, 0.0)  # highway-env lets cars roll back
    me[SPEED] = speed
    me[LANE] = lane_at(me[Y], road)


@compiled
def lane_path(done: float) -> float:
    """Share of a scripted lane change's way at a share `done` of its time: a quintic."""
    return done * done * done * (10.0 - 15.0 * done + 6.0 * done * done)


@compiled
def _follow_script(me: np.ndarray, road: np.ndarray, dt_s: float) -> None:
    """Go to CUT_LANE along a quintic, heading tangent to it; slow cars take longer for it."""
    way_m = me[CUT_LANE] * road[LANE_WIDTH_M] - me[CUT_FROM_M]
    pace = 1.0 / max(me[CUT_DURATION_S], 0.1)
    pace = min(pace, 0.5 * me[SPEED] / max(1.875 * abs(way_m), 1e-6))
    done = min(me[CUT_DONE] + pace * dt_s, 1.0)
    y = me[CUT_FROM_M] + way_m * lane_path(done)
    lateral = (y - me[Y]) / dt_s
    me[CUT_DONE] = done
    me[CUT_AGE_S] += dt_s
    me[Y] = y
    me[X] += np.sqrt(max(me[SPEED] * me[SPEED] - lateral * lateral, 0.0)) * dt_s
    me[HEADING] = np.arcsin(max(min(lateral / max(me[SPEED], 0.1), 1.0), -1.0))
    me[STEERING] = 0.0
    if done >= 1.0 and me[BRAKE_AFTER_S] == np.inf:
        me[CUT_S], me[CUT_AGE_S] = np.inf, -1.0


@compiled
def _walk(cars: np.ndarray, road: np.ndarray, people: np.ndarray, dt_s: float) -> None:
    for k in range(people.shape[0]):
        person = people[k]
        if person[WALK] == 0 and road[TIME_S] >= person[START_S]:
            go = True
            for j in range(cars.shape[0]):
                car = cars[j]
                rear_m = car[X] - 0.5 * car[LENGTH]
                if car[KIND] == 0 or rear_m > person[PERSON_X] + 1.0:
                    continue
                distance_m = person[PERSON_X] - car[X] - 0.5 * car[LENGTH] - PERSON_MARGIN_M
                if distance_m < 1.0 or 0.5 * car[SPEED] ** 2 > person[ACCEPT] * distance_m:
                    go = False
                    break
            if go:
                person[WALK] = 1.0
        if person[WALK] == 1:
            person[PERSON_Y] += person[PACE] * dt_s
            if (person[END_Y] - person[PERSON_Y]) * person[PACE] <= 0:
                person[WALK] = 2.0


@compiled
def _collide(cars: np.ndarray, road: np.ndarray, people: np.ndarray) -> None:
    for j in range(cars.shape[0]):
        me = cars[j]
        if me[KIND] == 0:
            continue
        for k in range(j + 1, cars.shape[0]):
            other = cars[k]
            dx, dy = other[X] - me[X], other[Y] - me[Y]
            if other[KIND] == 0 or abs(dx) > me[LENGTH] + other[LENGTH]:
                continue
            if overlap(
                dx, dy, me[HEADING], me[LENGTH], me[WIDTH],
                other[HEADING], other[LENGTH], other[WIDTH],
            ):  # fmt: skip
                me[CRASHED] = max(me[CRASHED], HIT_VEHICLE)
                other[CRASHED] = max(other[CRASHED], HIT_VEHICLE)
        for k in range(people.shape[0]):
            dx, dy = people[k, PERSON_X] - me[X], people[k, PERSON_Y] - me[Y]
            if people[k, WALK] == 1 and abs(dx) < me[LENGTH]:
                c, s = np.cos(me[HEADING]), np.sin(me[HEADING])
                out_x = max(abs(dx * c + dy * s) - 0.5 * me[LENGTH], 0.0)
                out_y = max(abs(dy * c - dx * s) - 0.5 * me[WIDTH], 0.0)
                if out_x * out_x + out_y * out_y < PERSON_RADIUS_M**2:
                    me[CRASHED] = HIT_PERSON
    ego = cars[0]
    if ego[CONTROL] == ACTIONS and ego[CRASHED] == 0:
        half_m = 0.5 * road[LANE_WIDTH_M]
        ramp = ego[X] + 0.5 * ego[LENGTH] <= road[RAMP_END_M]
        right_m = (road[LANES] if ramp else road[LANES] - 1) * road[LANE_WIDTH_M] + half_m
        if not -half_m <= ego[Y] <= right_m:
            ego[CRASHED] = OFF_ROAD


@compiled
def overlap(
    dx: float, dy: float, h1: float, l1: float, w1: float, h2: float, l2: float, w2: float
) -> bool:
    """Whether two rectangles (heading, length, width), `dx, dy` apart, overlap: separating axes."""
    c1, s1, c2, s2 = np.cos(h1), np.sin(h1), np.cos(h2), np.sin(h2)
    c, s = abs(c1 * c2 + s1 * s2), abs(c1 * s2 - s1 * c2)
    if abs(dx * c1 + dy * s1) > 0.5 * (l1 + l2 * c + w2 * s):
        return False
    if abs(dy * c1 - dx * s1) > 0.5 * (w1 + l2 * s + w2 * c):
        return False
    if abs(dx * c2 + dy * s2) > 0.5 * (l2 + l1 * c + w1 * s):
        return False
    return abs(dy * c2 - dx * s2) <= 0.5 * (w2 + l1 * s + w1 * c)


# What a driver sees (see `view`), by lane left, own, right and there ahead and behind: gap (bumper
# to bumper) / 100 m, speed relative to the ego's / 20 m/s, its lateral offset from the ego / 4 m.
VIEW = (
    "speed", "limit", "lane_offset", "heading", "steering", "acceleration", "grip",
    "has_left", "has_right", "on_ramp", "ramp_start", "ramp_end",
    "person", "person_ahead", "person_right", "person_pace",
    *(
        f"{lane}_{place}_{figure}"
        for lane in ("left", "own", "right")
        for place in ("ahead", "behind")
        for figure in ("gap", "speed", "right")
    ),
)  # fmt: skip
_LANES_AT = 16
SEES_M = 120.0
DRIVE_ACCEL, DRIVE_BRAKE = 3.0, 8.0  # m/s² of the actions +1 and -1
DRIVE_LATERAL = 4.0  # m/s² of steering ±1 at speed; the wheel's angle is at most
DRIVE_STEER_MAX = 0.35  # rad


@compiled
def steering_scale(speed: float, length_m: float) -> float:
    """Wheel angle of the steering action 1: DRIVE_LATERAL m/s², whatever the speed."""
    # a = v² sin β / (L / 2) with tan β = tan δ / 2, for small angles.
    return min(DRIVE_LATERAL * length_m / max(speed * speed, 1.0), DRIVE_STEER_MAX)


@compiled
def commands(cars: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Actions in [-1, 1] (acceleration, steering; right is +) → `step`'s m/s² and rad."""
    out = np.empty((action.shape[0], 2))
    for i in range(action.shape[0]):
        a = min(max(np.float64(action[i, 0]), -1.0), 1.0)
        s = min(max(np.float64(action[i, 1]), -1.0), 1.0)
        out[i, 0] = a * (DRIVE_ACCEL if a > 0 else DRIVE_BRAKE)
        out[i, 1] = s * steering_scale(cars[i, 0, SPEED], cars[i, 0, LENGTH])
    return out


@compiled
def view(cars: np.ndarray, roads: np.ndarray, people: np.ndarray) -> np.ndarray:
    """What the ego of each road sees (n, len(VIEW)) float32, nothing farther than 120 m.

    A vehicle is in every lane that its body reaches into now or, as it moves, in a second; nobody
    there: gap 1.2, speed 0. The person is the nearest one on the road who is, or will be, in the
    way: ahead / 100 m, to the right / 10 m, pace in m/s.
    """
    out = np.zeros((cars.shape[0], len(VIEW)), np.float32)
    for i in range(cars.shape[0]):
        ego, road, seen = cars[i, 0], roads[i], out[i]
        width_m = road[LANE_WIDTH_M]
        seen[0] = ego[SPEED] / 30.0
        seen[1] = road[LIMIT] / 30.0
        seen[2] = (ego[Y] - ego[LANE] * width_m) / width_m
        seen[3] = ego[HEADING] * 5.0
        seen[4] = ego[STEERING] / steering_scale(ego[SPEED], ego[LENGTH])
        seen[5] = ego[ACCELERATION] / 5.0
        seen[6] = road[GRIP] / 10.0
        on_ramp = ego[LANE] >= road[LANES]
        seen[7] = ego[LANE] > 0 and (not on_ramp or ego[X] >= road[RAMP_START_M])
        seen[8] = ego[LANE] < road[LANES] - 1
        seen[9] = on_ramp
        front_m = ego[X] + 0.5 * ego[LENGTH]
        if road[RAMP_END_M] > -np.inf:
            seen[10] = min(max((road[RAMP_START_M] - ego[X]) / 100.0, -1.2), 1.2)
            seen[11] = min(max((road[RAMP_END_M] - front_m) / 200.0, -0.6), 1.5)
        else:
            seen[10], seen[11] = 1.2, 1.5
        nearest_m = 100.0
        for k in range(people.shape[1]):
            person = people[i, k]
            ahead_m = person[PERSON_X] - front_m
            side = 1.0 if person[PACE] > 0 else -1.0
            coming = (ego[Y] - person[PERSON_Y]) * side > -OUT_OF_WAY_M
            if person[WALK] == 1 and coming and -ego[LENGTH] < ahead_m < nearest_m:
                nearest_m = ahead_m
                seen[12] = 1.0
                seen[13] = ahead_m / 100.0
                seen[14] = (person[PERSON_Y] - ego[Y]) / 10.0
                seen[15] = person[PACE]
        for side in range(3):
            at = _LANES_AT + 6 * side
            _look(cars[i], ego[LANE] + side - 1, width_m, seen[at : at + 6])
    return out


@compiled
def _look(cars: np.ndarray, lane: float, width_m: float, seen: np.ndarray) -> None:
    ego = cars[0]
    seen[0] = seen[3] = SEES_M / 100.0
    left_m, right_m = (lane - 0.5) * width_m + 0.2, (lane + 0.5) * width_m - 0.2
    for k in range(1, cars.shape[0]):
        other = cars[k]
        if other[KIND] == 0 or abs(other[X] - ego[X]) > SEES_M + 20.0:
            continue
        half_m = 0.5 * other[WIDTH]
        soon_y = other[Y] + other[SPEED] * np.sin(other[HEADING])
        if min(other[Y], soon_y) - half_m > right_m or max(other[Y], soon_y) + half_m < left_m:
            continue
        ahead = other[X] >= ego[X]
        gap = (abs(other[X] - ego[X]) - 0.5 * (ego[LENGTH] + other[LENGTH])) / 100.0
        at = 0 if ahead else 3
        if gap < seen[at]:
            seen[at] = gap
            seen[at + 1] = (other[SPEED] * np.cos(other[HEADING]) - ego[SPEED]) / 20.0
            seen[at + 2] = (other[Y] - ego[Y]) / 4.0


@compiled
def expert(seen: np.ndarray) -> np.ndarray:
    """A careful driver (n, 2), in [-1, 1], who knows `view` and nothing else, not even the past.

    IDM to the slowest of those ahead; MOBIL without a memory (moving towards a lane speaks for
    it); stops for people and the ramp's end; keeps to the middle of the lane it chose.
    """
    out = np.empty((seen.shape[0], 2), np.float32)
    driver = np.zeros(CAR)
    driver[HEADWAY_S], driver[JAM_GAP_M], driver[EXPONENT] = 1.4, 3.0, 4.0
    driver[ACCEL], driver[BRAKE] = 2.0, 2.5
    for i in range(seen.shape[0]):
        s = seen[i].astype(np.float64)
        speed, limit, offset_m, heading = s[0] * 30, s[1] * 30, s[2] * 4.0, s[3] / 5.0
        lateral = speed * np.sin(heading)
        on_ramp = s[9] > 0.5
        own = _behind_vehicle(driver, s, 1, speed, limit)
        side, best = 0, 0.0
        for turn in (-1, 1):
            if s[7 if turn < 0 else 8] < 0.5 or speed < 0.5:
                continue
            moving = lateral * turn
            there = _behind_vehicle(driver, s, 1 + turn, speed, limit)
            gain = 2.0 * moving + (5.0 if on_ramp else min(there - own, 3.0) - 0.3)
            # Well on the way, the follower there has seen it; to turn back is no better.
            imposed = -RAMP_IMPOSED if on_ramp else -CHANGE_IMPOSED
            if gain > best and _room(driver, s, 1 + turn, speed, limit, imposed) and there > -3.5:
                side, best = turn, gain
        acceleration = own
        for turn in (-1, 1):
            if side == turn or offset_m * turn > 0.8:
                there = _behind_vehicle(driver, s, 1 + turn, speed, limit)
                acceleration = min(acceleration, there)
        if on_ramp:
            distance_m = s[11] * 200.0 - RAMP_ROOM_M
            if side == 0:
                acceleration = min(acceleration, stop(speed, distance_m))
                # Line up behind who is ahead in the lane to be merged into.
                if s[10] < 0.4:
                    there = _behind_vehicle(driver, s, 0, speed, limit)
                    acceleration = min(acceleration, max(there, -2.0))
        if s[12] > 0.5:
            distance_m = s[13] * 100.0 - PERSON_MARGIN_M
            acceleration = min(acceleration, stop(speed, distance_m))
        error_m = offset_m - side * 4.0
        drift = min(max(-error_m / 0.9, -1.5), 1.5)
        wanted_heading = np.arcsin(min(max(drift / max(speed, 2.0), -0.5), 0.5))
        rate = (wanted_heading - heading) / 0.45
        sine = min(max(2.5 * rate / max(speed, 1.0), -0.5), 0.5)
        angle = np.arctan(2.0 * sine / np.sqrt(1.0 - sine * sine))
        out[i, 0] = acceleration / (DRIVE_ACCEL if acceleration > 0 else DRIVE_BRAKE)
        out[i, 1] = angle / steering_scale(speed, 5.0)
        for k in range(2):
            out[i, k] = min(max(out[i, k], np.float32(-1.0)), np.float32(1.0))
    return out


@compiled
def _behind_vehicle(
    driver: np.ndarray, s: np.ndarray, lane: int, speed: float, limit: float
) -> float:
    """IDM behind whoever is ahead in a lane of the view (0 left, 1 own, 2 right)."""
    at = _LANES_AT + 6 * lane
    gap_m = max(s[at] * 100.0, 0.1) if s[at] < 0.01 * SEES_M - 1e-6 else np.inf
    return max(idm(driver, limit, speed, limit, gap_m, -20.0 * s[at + 1]), -DRIVE_BRAKE)


@compiled
def _room(
    driver: np.ndarray, s: np.ndarray, lane: int, speed: float, limit: float, imposed: float
) -> bool:
    """Whether a lane of the view has room for the ego, its follower braking with `imposed`."""
    at = _LANES_AT + 6 * lane
    if s[at] < 0.03 or s[at + 3] < 0.03:
        return False
    if s[at + 3] > 0.01 * SEES_M - 1e-6:
        return True
    other = speed + 20.0 * s[at + 4]
    return idm(driver, limit, other, limit, 100.0 * s[at + 3], other - speed) > imposed


# Scenarios of one cut-in, by the million: columns of `cut_in`'s parameters.
(
    EGO_SPEED, GAP, OTHER_SPEED, CUT_BEGIN_S, CUT_TAKES_S, BRAKES_AFTER_S, BRAKES_M_S2, BRAKES_TO,
    LEAD_GAP, LEAD_SPEED,
) = range(10)  # fmt: skip
SCENARIO = 10
# Columns of what came of it: collision (0/1), when, at which closing speed in m/s, and a margin:
# the smallest gap in m from the ego's bumper to who cut in, or, where they collided, minus IMPACT.
COLLIDED, COLLIDED_S, IMPACT, MARGIN_M = range(4)
# Columns of the ego's controller: IDM with a reaction time and a strongest braking; EMERGENCY 1
# brakes with all it has as soon as it sees, -1 never brakes for who cuts in. A collision that
# neither EGO_BEST nor EGO_ON escapes is unavoidable: no speed would have done, but steering might.
EGO_HEADWAY_S, EGO_JAM_GAP_M, EGO_ACCEL, EGO_BRAKE, EGO_REACTION_S, EGO_BRAKE_MAX, EMERGENCY = (
    range(7)
)
EGO_IDM = np.array([1.5, 2.0, 2.0, 2.5, 0.5, 8.0, 0.0])
EGO_BEST = np.array([1.5, 2.0, 2.0, 2.5, 0.0, 8.0, 1.0])
EGO_ON = np.array([1.5, 2.0, 2.0, 2.5, 0.0, 8.0, -1.0])


@compiled
def cut_in(parameters: np.ndarray, ego: np.ndarray, dt_s: float, duration_s: float) -> np.ndarray:
    """What comes of each scenario (n, SCENARIO) → (n, 4), the ego driven by `ego` (see EGO_IDM).

    The ego at EGO_SPEED (its wanted speed, too); OTHER starts GAP m ahead (bumpers; negative:
    behind its front) one lane beside with OTHER_SPEED, and from CUT_BEGIN_S on goes into the ego's
    lane within CUT_TAKES_S; BRAKES_AFTER_S after that began it brakes with BRAKES_M_S2 to
    BRAKES_TO. A leader of constant LEAD_SPEED drives LEAD_GAP ahead of the ego (inf: none). Cars of
    5 m by 2 m, lanes of 4 m, oriented rectangles: `cut_in_cars` makes the same for `step`.
    """
    n = parameters.shape[0]
    out = np.zeros((n, 4))
    driver = np.zeros(CAR)
    driver[HEADWAY_S], driver[JAM_GAP_M] = ego[EGO_HEADWAY_S], ego[EGO_JAM_GAP_M]
    driver[ACCEL], driver[BRAKE], driver[EXPONENT] = ego[EGO_ACCEL], ego[EGO_BRAKE], 4.0
    steps = int(np.round(duration_s / dt_s))
    for i in range(n):
        p = parameters[i]
        v, u = p[EGO_SPEED], p[OTHER_SPEED]
        # Distances from the ego's centre to the other's and the leader's; the other's way across.
        d, lead_m = p[GAP] + 5.0, p[LEAD_GAP] + 5.0
        age, done, y, heading = -1.0, 0.0, 4.0, 0.0
        margin_m, when_s, impact = np.inf, np.inf, 0.0
        for t in range(steps):
            if age < 0 and t * dt_s >= p[CUT_BEGIN_S]:
                age = 0.0
            a = idm(driver, np.inf, v, p[EGO_SPEED], np.inf, 0.0)
            if lead_m < np.inf:
                gap_m = max(lead_m - 5.0, 0.1)
                a = idm(driver, np.inf, v, p[EGO_SPEED], gap_m, v - p[LEAD_SPEED])
            seen = d >= 0 and (y <= 3.0 or age >= ego[EGO_REACTION_S])
            if seen and ego[EMERGENCY] >= 0:
                if ego[EMERGENCY] > 0:
                    a = -ego[EGO_BRAKE_MAX]
                else:
                    closing = v - u * np.cos(heading)
                    a = min(a, idm(driver, np.inf, v, p[EGO_SPEED], max(d - 5.0, 0.1), closing))
            a = min(max(a, -ego[EGO_BRAKE_MAX]), ACCEL_LIMIT)
            b = 0.0
            if age >= p[BRAKES_AFTER_S] and u > p[BRAKES_TO]:
                b = -min(p[BRAKES_M_S2], ACCEL_LIMIT)
            forward = u
            if age >= 0:
                if done < 1.0:
                    pace = min(1.0 / max(p[CUT_TAKES_S], 0.1), 0.5 * u / 7.5)
                    done = min(done + pace * dt_s, 1.0)
                    before_m, y = y, 4.0 * (1.0 - lane_path(done))
                    lateral = (y - before_m) / dt_s
                    forward = np.sqrt(max(u * u - lateral * lateral, 0.0))
                    heading = np.arcsin(min(max(lateral / max(u, 0.1), -1.0), 1.0))
                else:
                    heading = 0.0
                age += dt_s
            d += (forward - v) * dt_s
            lead_m += (p[LEAD_SPEED] - v) * dt_s
            v, u = max(v + a * dt_s, 0.0), max(u + b * dt_s, 0.0)
            if d > 0 and y < 2.0 + 2.5 * abs(np.sin(heading)):
                margin_m = min(margin_m, max(d - 5.0, 0.0))
            hit = abs(d) < 6.0 and overlap(d, y, 0.0, 5.0, 2.0, heading, 5.0, 2.0)
            if hit or lead_m < 5.0:
                when_s = (t + 1) * dt_s
                impact = v - u * np.cos(heading) if hit else v - p[LEAD_SPEED]
                margin_m = -max(impact, 0.01)
                break
            # Over: it is in front, slower no more, and nothing is scripted any longer.
            braked = u <= p[BRAKES_TO] or p[BRAKES_AFTER_S] == np.inf
            if done >= 1.0 and braked and v <= u and d > 10.0:
                break
        out[i, COLLIDED] = when_s < np.inf
        out[i, COLLIDED_S] = when_s
        out[i, IMPACT] = impact
        out[i, MARGIN_M] = min(margin_m, 100.0)
    return out


def cut_in_cars(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scenarios of `cut_in` as `cars, roads, people` for `step` and `view`.

    Vehicle 0 the ego (CONTROL ACTIONS, in lane 1 of 3), 1 who cuts in from the right, 2 the leader.
    """
    n = len(parameters)
    cars, roads, people = empty(n, 3, 1)
    roads[:, [LANES, LIMIT, CENTRE_GAPS, GRIP, STEER_RATE]] = 3.0, 60.0, 0.0, 8.0, 0.6
    cars[:, :, KIND] = 1.0
    cars[:, :, CONTROL] = IDM_ONLY
    cars[:, 0, CONTROL] = ACTIONS
    cars[:, :, [HEADWAY_S, JAM_GAP_M, ACCEL, BRAKE]] = 1.5, 2.0, 2.0, 2.5
    cars[:, :, [LANE, TARGET, Y]] = 1.0, 1.0, 4.0
    cars[:, 1, LANE] = cars[:, 1, TARGET] = 2.0
    cars[:, 1, Y] = 8.0
    cars[:, 0, SPEED] = cars[:, 0, WANTED] = parameters[:, EGO_SPEED]
    cars[:, 1, SPEED] = cars[:, 1, WANTED] = parameters[:, OTHER_SPEED]
    cars[:, 1, X] = parameters[:, GAP] + 5.0
    cars[:, 1, CUT_S] = parameters[:, CUT_BEGIN_S]
    cars[:, 1, CUT_LANE] = 1.0
    cars[:, 1, CUT_DURATION_S] = parameters[:, CUT_TAKES_S]
    cars[:, 1, BRAKE_AFTER_S] = parameters[:, BRAKES_AFTER_S]
    cars[:, 1, BRAKE_M_S2] = parameters[:, BRAKES_M_S2]
    cars[:, 1, BRAKE_TO] = parameters[:, BRAKES_TO]
    led = np.isfinite(parameters[:, LEAD_GAP])
    cars[~led, 2, KIND] = 0.0
    cars[led, 2, X] = parameters[led, LEAD_GAP] + 5.0
    cars[:, 2, SPEED] = cars[:, 2, WANTED] = parameters[:, LEAD_SPEED]
    return cars, roads, people
