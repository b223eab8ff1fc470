"""A cut-in or merge as OpenSCENARIO 1.2, on a road in OpenDRIVE 1.6, for other simulators.

The road is straight, three lanes of 4 m in one direction, drawn from its left edge, so that lane
-1 is the leftmost. The ego starts in lane -2 at `EGO_S_M` with a wanted speed and no controller:
who replays a scenario puts the driver in. The other one follows its script: a lane change by
time, its lateral way a cubic polynomial there and a quintic here (both smooth, at most 4 cm
apart), and maybe a braking with constant deceleration.

Units: m, s, m/s, m/s². Source: https://www.asam.net/standards/detail/openscenario-xml/ (1.2),
https://www.asam.net/standards/detail/opendrive/ (1.6)
"""

import math
from pathlib import Path
from xml.etree import ElementTree as XML

import numpy as np

from gigafactory.jobs.worlds import traffic

ROAD = "road.xodr"
EGO_S_M = 60.0
ROAD_M = 2000.0
LANES = 3
LANE_WIDTH_M = 4.0
EGO_LANE, OTHER_LANE = -2, -3
END_S = 12.0
MADE = "2026-01-01T00:00:00"  # of the format's own; the same scenario is the same bytes
LENGTH_M, WIDTH_M, HEIGHT_M = 5.0, 2.0, 1.5


def write(path: Path, scenario: np.ndarray, name: str) -> None:
    """One scenario, a row of `traffic.cut_in`'s parameters."""
    root = XML.Element("OpenSCENARIO")
    _add(root, "FileHeader", revMajor=1, revMinor=2, date=MADE, description=name,
         author="gigafactory")  # fmt: skip
    _add(root, "ParameterDeclarations")
    _add(root, "CatalogLocations")
    _add(_add(root, "RoadNetwork"), "LogicFile", filepath=ROAD)
    entities = _add(root, "Entities")
    story = _add(root, "Storyboard")
    actions = _add(_add(story, "Init"), "Actions")
    gap_m = scenario[traffic.GAP] + LENGTH_M
    for who, lane, s_m, speed in (
        ("ego", EGO_LANE, EGO_S_M, scenario[traffic.EGO_SPEED]),
        ("other", OTHER_LANE, EGO_S_M + gap_m, scenario[traffic.OTHER_SPEED]),
    ):
        _vehicle(entities, who)
        _start(actions, who, lane, s_m, speed)
    act = _add(_add(story, "Story", name="story"), "Act", name="act")
    group = _add(act, "ManeuverGroup", name="other drives", maximumExecutionCount=1)
    _add(_add(group, "Actors", selectTriggeringEntities="false"), "EntityRef", entityRef="other")
    maneuver = _add(group, "Maneuver", name="script")
    begin_s = scenario[traffic.CUT_BEGIN_S]
    change = _event(maneuver, "change lane", begin_s)
    change = _add(_add(change, "LateralAction"), "LaneChangeAction")
    _add(change, "LaneChangeActionDynamics", dynamicsShape="cubic", dynamicsDimension="time",
         value=scenario[traffic.CUT_TAKES_S])  # fmt: skip
    target = _add(change, "LaneChangeTarget")
    _add(target, "AbsoluteTargetLane", value=EGO_LANE)
    if scenario[traffic.BRAKES_M_S2] > 0 and math.isfinite(scenario[traffic.BRAKES_AFTER_S]):
        brake = _event(maneuver, "brake", begin_s + scenario[traffic.BRAKES_AFTER_S])
        brake = _add(_add(brake, "LongitudinalAction"), "SpeedAction")
        _add(brake, "SpeedActionDynamics", dynamicsShape="linear", dynamicsDimension="rate",
             value=scenario[traffic.BRAKES_M_S2])  # fmt: skip
        target = _add(brake, "SpeedActionTarget")
        _add(target, "AbsoluteTargetSpeed", value=scenario[traffic.BRAKES_TO])
    _at(_add(act, "StartTrigger"), "begin", 0.0)
    _at(_add(story, "StopTrigger"), "end", END_S)
    _save(root, path)


def write_road(path: Path) -> None:
    """The road that every scenario stands on."""
    root = XML.Element("OpenDRIVE")
    _add(root, "header", revMajor=1, revMinor=6, name="three lanes", date=MADE)
    road = _add(root, "road", name="highway", length=ROAD_M, id=1, junction=-1)
    geometry = _add(_add(road, "planView"), "geometry", s=0, x=0, y=0, hdg=0, length=ROAD_M)
    _add(geometry, "line")
    section = _add(_add(road, "lanes"), "laneSection", s=0)
    _mark(_add(_add(section, "center"), "lane", id=0, type="none", level="false"), "solid")
    right = _add(section, "right")
    for lane in range(-1, -LANES - 1, -1):
        one = _add(right, "lane", id=lane, type="driving", level="false")
        _add(one, "width", sOffset=0, a=LANE_WIDTH_M, b=0, c=0, d=0)
        _mark(one, "solid" if lane == -LANES else "broken")
    _save(root, path)


def _vehicle(entities: XML.Element, who: str) -> None:
    one = _add(entities, "ScenarioObject", name=who)
    car = _add(one, "Vehicle", name="car", vehicleCategory="car")
    _add(car, "ParameterDeclarations")
    _add(car, "Performance", maxSpeed=70, maxAcceleration=6, maxDeceleration=8)
    box = _add(car, "BoundingBox")
    _add(box, "Center", x=0, y=0, z=HEIGHT_M / 2)
    _add(box, "Dimensions", width=WIDTH_M, length=LENGTH_M, height=HEIGHT_M)
    axles = _add(car, "Axles")
    for axle, x in (("FrontAxle", 1.4), ("RearAxle", -1.4)):
        turn = 0.5 if x > 0 else 0
        _add(axles, axle, maxSteering=turn, wheelDiameter=0.7, trackWidth=1.7, positionX=x,
             positionZ=0.35)  # fmt: skip
    _add(car, "Properties")


def _start(actions: XML.Element, who: str, lane: int, s_m: float, speed: float) -> None:
    private = _add(actions, "Private", entityRef=who)
    teleport = _add(_add(private, "PrivateAction"), "TeleportAction")
    _add(_add(teleport, "Position"), "LanePosition", roadId=1, laneId=lane, s=s_m, offset=0)
    action = _add(_add(_add(private, "PrivateAction"), "LongitudinalAction"), "SpeedAction")
    _add(action, "SpeedActionDynamics", dynamicsShape="step", dynamicsDimension="time", value=0)
    _add(_add(action, "SpeedActionTarget"), "AbsoluteTargetSpeed", value=speed)


def _event(maneuver: XML.Element, name: str, at_s: float) -> XML.Element:
    event = _add(maneuver, "Event", name=name, priority="parallel")
    action = _add(_add(event, "Action", name=name), "PrivateAction")
    _at(_add(event, "StartTrigger"), name, at_s)
    return action


def _at(trigger: XML.Element, name: str, at_s: float) -> None:
    condition = _add(_add(trigger, "ConditionGroup"), "Condition", name=name, delay=0,
                     conditionEdge="none")  # fmt: skip
    value = _add(condition, "ByValueCondition")
    _add(value, "SimulationTimeCondition", value=at_s, rule="greaterOrEqual")


def _mark(lane: XML.Element, kind: str) -> None:
    _add(lane, "roadMark", sOffset=0, type=kind, weight="standard", color="white", width=0.12)


def _add(parent: XML.Element, tag: str, **said: object) -> XML.Element:
    told = {key: f"{value:.9g}" if isinstance(value, float) else str(value)
            for key, value in said.items()}  # fmt: skip
    return XML.SubElement(parent, tag, told)


def _save(root: XML.Element, path: Path) -> None:
    XML.indent(root)
    XML.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
