"""A generated galaxy: areas, and objects made from three templates."""

import random
from collections.abc import Iterator

from mxfast.simulator.galaxy_model import (
    AREA,
    BOOLEAN,
    DOUBLE,
    FLOAT,
    INTEGER,
    SECURED_WRITE,
    STRING,
    USER_DEFINED,
    Attribute,
    GalaxyObject,
    Template,
)

_OBJECTS_PER_AREA = 25

_AREA_TEMPLATE = Template(["$Area"], AREA, [Attribute("AlarmCntsBySeverity", INTEGER, 4)])
_TEMPLATES = {
    "Tank": Template(
        ["$Tank", "$Vessel", "$UserDefined"],
        USER_DEFINED,
        [
            Attribute("Level", DOUBLE, historized=True),
            Attribute("Level.HiHi", BOOLEAN, alarm=True),
            Attribute("Temperature", FLOAT, historized=True),
            Attribute("Profile", DOUBLE, 50),
            Attribute("Description", STRING),
        ],
    ),
    "Pump": Template(
        ["$Pump", "$Machine", "$UserDefined"],
        USER_DEFINED,
        [
            Attribute("Run", BOOLEAN, security=SECURED_WRITE),
            Attribute("Speed", FLOAT, historized=True),
            Attribute("Fault", BOOLEAN, alarm=True),
            Attribute("Starts", INTEGER),
        ],
    ),
    "Valve": Template(
        ["$Valve", "$UserDefined"],
        USER_DEFINED,
        [Attribute("Open", BOOLEAN), Attribute("Position", FLOAT)],
    ),
}


def generate(objects: int, seed: int) -> Iterator[GalaxyObject]:
    """Make a galaxy, the same for the same size and seed; parents come first.

    Of a hundred objects four are areas; a hundred have some 360 attributes.
    """
    chance = random.Random(seed)
    areas = max(1, objects // _OBJECTS_PER_AREA)
    for number in range(1, min(areas, objects) + 1):
        parent = 0 if number == 1 else chance.randint(max(1, number // 4), number - 1)
        yield GalaxyObject(number, f"Area_{number:04}", "", parent, _AREA_TEMPLATE)
    holder = 0  # the last tank: pumps and valves may be contained in it
    for number in range(areas + 1, objects + 1):
        kind = chance.choice(list(_TEMPLATES))
        template, tag_name = _TEMPLATES[kind], f"{kind}_{number:05}"
        if kind != "Tank" and holder and chance.random() < 0.3:
            yield GalaxyObject(number, tag_name, f"{kind}{number}", holder, template)
            continue
        if kind == "Tank":
            holder = number
        yield GalaxyObject(number, tag_name, "", chance.randint(1, areas), template)
