"""Which nodes a gang gets, and how they come back.

A gang that fits on a node gets the fullest node that takes it; a larger one gets whole nodes, as
near to each other as can be (one rack, one block, the pool; the tightest that does), and
what is over on the fullest node that takes it. So gaps stay together for the next large gang.
"""

from gigafactory.factory.state import (
    FREE_HOLD,
    HOLDS,
    MARK,
    NO_CAP_MW,
    SPAN,
    TOUCHED,
    State,
)

NODE, RACK, BLOCK, POOL = range(4)
"""How far a gang reaches."""


def usable(state: State, n: int) -> bool:
    """Whether the node takes work."""
    node = state.nodes[n]
    return node["up"] and not node["drained"] and not node["lemon"]


def admit(state: State, n: int) -> None:
    """The node begins to take work."""
    pool = state.pools[state.nodes[n]["pool"]]
    pool["free"] += state.nodes[n]["free"]
    touch(state, state.nodes[n]["pool"])
    _shelve(state, n)


def retire(state: State, n: int) -> None:
    """The node, which took work until now, takes none; what runs on it goes on."""
    state.pools[state.nodes[n]["pool"]]["free"] -= state.nodes[n]["free"]
    _unshelve(state, n)


def seek(state: State, p: int, chips: int, chip_mw: int, spares: bool) -> int:
    """Choose nodes for a gang into `scratch`; how many, or 0 where it does not fit now.

    With `spares` the nodes that are kept for restarts may be taken, too. How far the gang
    reaches stands in `counts[SPAN]`.
    """
    pool = state.pools[p]
    if pool["free"] < chips:
        return 0
    state.counts[SPAN] = NODE
    if pool["nodes"] == 1:
        state.scratch[0] = pool["first_node"]
        rack = state.nodes[pool["first_node"]]["rack"]
        return 1 if _rack_room(state, rack, chips * chip_mw) > 0 else 0
    size = pool["node_chips"]
    whole, rest = chips // size, chips % size
    last = -1
    if rest > 0:
        last = _seek_part(state, p, rest, chip_mw)
        if last < 0:
            whole += 1
    if whole > 0:
        kept = 0 if spares else pool["spares"]
        if pool["whole"] - kept < whole:
            return 0
        # The rest draws from its rack, too.
        rest_mw = rest * chip_mw if last >= 0 else 0
        rack = state.racks[state.nodes[max(last, 0)]["rack"]]
        rack["used_mw"] += rest_mw
        found = _seek_whole(state, p, whole, size * chip_mw)
        rack["used_mw"] -= rest_mw
        if not found:
            return 0
    if last >= 0:
        state.scratch[whole] = last
        return whole + 1
    return whole


def hold(state: State, j: int, p: int, picked: int, chips: int, chip_mw: int) -> None:
    """Give the job `chips` on the nodes that `seek` has chosen; the last gives what is over."""
    job, last, left = state.jobs[j], -1, chips
    job["pool"], job["width"], job["first_hold"] = p, chips, -1
    for i in range(picked):
        n = state.scratch[i]
        taken = min(left, state.nodes[n]["free"])
        left -= taken
        h = state.counts[FREE_HOLD]
        if h < 0:
            h = state.counts[HOLDS]
            state.counts[HOLDS] += 1
        else:
            state.counts[FREE_HOLD] = state.holds[h]["next"]
        state.holds[h]["node"], state.holds[h]["chips"], state.holds[h]["next"] = n, taken, -1
        if last < 0:
            job["first_hold"] = h
        else:
            state.holds[last]["next"] = h
        last = h
    lay(state, j, chip_mw)


def release(state: State, j: int, chip_mw: int) -> None:
    """Take back everything that the gang holds."""
    lift(state, j, chip_mw)
    job = state.jobs[j]
    site = state.sites[state.pools[job["pool"]]["site"]]
    if site["bound"]:
        site["bound"] = False
        touch_site(state, state.pools[job["pool"]]["site"])
    touch(state, job["pool"])
    if state.pools[job["pool"]]["nodes"] == 1:
        state.pools[job["pool"]]["shadow_s"] = -1.0  # What will be over has changed.
    h = job["first_hold"]
    while h >= 0:
        after = state.holds[h]["next"]
        state.holds[h]["next"] = state.counts[FREE_HOLD]
        state.counts[FREE_HOLD] = h
        h = after
    job["pool"], job["width"], job["first_hold"] = -1, 0, -1


def lay(state: State, j: int, chip_mw: int) -> None:
    """Take the chips of the job's holds from their nodes, and its power from its site."""
    _move(state, j, -1, chip_mw)


def lift(state: State, j: int, chip_mw: int) -> None:
    """Give the chips of the job's holds back to their nodes, and its power to its site."""
    _move(state, j, 1, chip_mw)


def touch(state: State, p: int) -> None:
    """Something became free in the pool: who waits for it is to be tried again."""
    if not state.pools[p]["touched"]:
        state.pools[p]["touched"] = True
        state.touched[state.counts[TOUCHED]] = p
        state.counts[TOUCHED] += 1


def touch_site(state: State, s: int) -> None:
    """Power became free at the site."""
    for p in range(len(state.pools)):
        if state.pools[p]["site"] == s:
            touch(state, p)


def stands_on(state: State, j: int, n: int) -> bool:
    """Whether a piece of the gang is on the node."""
    h = state.jobs[j]["first_hold"]
    while h >= 0:
        if state.holds[h]["node"] == n:
            return True
        h = state.holds[h]["next"]
    return False


def _move(state: State, j: int, sign: int, chip_mw: int) -> None:
    job = state.jobs[j]
    p = job["pool"]
    pool = state.pools[p]
    h = job["first_hold"]
    while h >= 0:
        n, chips = state.holds[h]["node"], sign * state.holds[h]["chips"]
        node = state.nodes[n]
        takes = usable(state, n)
        if takes:
            _unshelve(state, n)
            pool["free"] += chips
        node["free"] += chips
        if takes:
            _shelve(state, n)
        state.racks[node["rack"]]["used_mw"] -= chips * chip_mw
        h = state.holds[h]["next"]
    state.sites[pool["site"]]["used_mw"] -= sign * job["width"] * chip_mw


def _seek_part(state: State, p: int, chips: int, chip_mw: int) -> int:
    """The fullest node in use with so many chips free, or -1."""
    pool = state.pools[p]
    for free in range(chips, pool["node_chips"]):
        n = state.shelves[pool["first_shelf"] + free]
        if n >= 0 and _rack_room(state, state.nodes[n]["rack"], chips * chip_mw) > 0:
            return n
    return -1


def _seek_whole(state: State, p: int, count: int, node_mw: int) -> bool:
    """Choose `count` free nodes: in the tightest rack, else block, that has so many."""
    tight_rack, tight_block = -1, -1
    rack_best, block_best, in_all = NO_CAP_MW, NO_CAP_MW, 0
    b = state.pools[p]["first_block"]
    while b >= 0:
        in_block, r = 0, state.blocks[b]["first_rack"]
        while r >= 0:
            room = _rack_nodes(state, r, node_mw)
            in_block += room
            if count <= room < rack_best:
                tight_rack, rack_best = r, room
            r = state.racks[r]["next"]
        if count <= in_block < block_best:
            tight_block, block_best = b, in_block
        in_all += in_block
        b = state.blocks[b]["next"]
    if tight_rack >= 0:
        state.counts[SPAN] = RACK if count > 1 else NODE
        _pick(state, tight_rack, 0, count)
        return True
    if in_all < count:
        return False
    state.counts[MARK] += 1  # A new mark, for racks and blocks that are used up.
    if tight_block >= 0:
        state.counts[SPAN] = BLOCK
        _fill_block(state, tight_block, 0, count, node_mw)
        return True
    state.counts[SPAN] = POOL
    got = 0
    while got < count:
        b = _roomiest_block(state, p, node_mw)
        state.blocks[b]["mark"] = state.counts[MARK]
        got = _fill_block(state, b, got, count, node_mw)
    return True


def _roomiest_block(state: State, p: int, node_mw: int) -> int:
    best, best_room = -1, -1
    b = state.pools[p]["first_block"]
    while b >= 0:
        if state.blocks[b]["mark"] != state.counts[MARK]:
            room, r = 0, state.blocks[b]["first_rack"]
            while r >= 0:
                room += _rack_nodes(state, r, node_mw)
                r = state.racks[r]["next"]
            if room > best_room:
                best, best_room = b, room
        b = state.blocks[b]["next"]
    return best


def _fill_block(state: State, b: int, got: int, count: int, node_mw: int) -> int:
    """Pick from the block's racks, the roomiest first; how many are picked now."""
    while got < count:
        best, best_room, r = -1, 0, state.blocks[b]["first_rack"]
        while r >= 0:
            if state.racks[r]["mark"] != state.counts[MARK]:
                room = _rack_nodes(state, r, node_mw)
                if room > best_room:
                    best, best_room = r, room
            r = state.racks[r]["next"]
        if best < 0:
            return got
        state.racks[best]["mark"] = state.counts[MARK]
        got = _pick(state, best, got, min(count, got + best_room))
    return got


def _pick(state: State, r: int, got: int, until: int) -> int:
    n = state.racks[r]["first_whole"]
    while got < until:
        state.scratch[got] = n
        n = state.nodes[n]["behind"]
        got += 1
    return got


def _rack_nodes(state: State, r: int, node_mw: int) -> int:
    """Free nodes of the rack that its power can carry."""
    return min(state.racks[r]["whole"], _rack_room(state, r, node_mw))


def _rack_room(state: State, r: int, mw: int) -> int:
    """How often the rack can carry a draw of `mw`."""
    rack = state.racks[r]
    if mw <= 0 or rack["cap_mw"] >= NO_CAP_MW:
        return NO_CAP_MW
    return max(rack["cap_mw"] - rack["used_mw"], 0) // mw


def _shelf(state: State, n: int) -> int:
    """Where in `shelves` a node in part use belongs."""
    node = state.nodes[n]
    return state.pools[node["pool"]]["first_shelf"] + node["free"]


def _shelve(state: State, n: int) -> None:
    node = state.nodes[n]
    if node["free"] == 0:
        return
    if node["free"] == node["chips"]:
        rack = state.racks[node["rack"]]
        first = rack["first_whole"]
        rack["first_whole"] = n
        rack["whole"] += 1
        state.pools[node["pool"]]["whole"] += 1
    else:
        first = state.shelves[_shelf(state, n)]
        state.shelves[_shelf(state, n)] = n
    node["before"], node["behind"] = -1, first
    if first >= 0:
        state.nodes[first]["before"] = n


def _unshelve(state: State, n: int) -> None:
    node = state.nodes[n]
    if node["free"] == 0:
        return
    before, behind = node["before"], node["behind"]
    if behind >= 0:
        state.nodes[behind]["before"] = before
    if before >= 0:
        state.nodes[before]["behind"] = behind
    whole = node["free"] == node["chips"]
    if whole:
        rack = state.racks[node["rack"]]
        rack["whole"] -= 1
        state.pools[node["pool"]]["whole"] -= 1
        if before < 0:
            rack["first_whole"] = behind
    elif before < 0:
        state.shelves[_shelf(state, n)] = behind
