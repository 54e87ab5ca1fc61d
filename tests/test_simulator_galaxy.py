"""Galaxies from files, and large ones."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mxfast import GalaxyRepositoryClient
from mxfast.contract import galaxy_repository as pb
from mxfast.simulator import SimulatedGateway, SimulatedGatewayProcess

CSV = """object,parent,contained_name,template,area,attribute,type,array,historized,alarm,security
North,,,$Area,yes,,,,,,
Tank1,North,,$Tank/$UserDefined,,Level,Double,,yes,,
Tank1,,,,,Level.HiHi,Boolean,,,yes,
Tank1,North,,,,Profile,Float,50,no,no,verified

Inlet,Tank1,In,$Valve,no,Open,Boolean,,,,secured
Tank2,North,,$Tank/$UserDefined,,,,,,,
"""

JSON = [
    {"object": "North", "template": "$Area", "area": True},
    {
        "object": "Tank1",
        "parent": "North",
        "template": "$Tank/$UserDefined",
        "attributes": [
            {"attribute": "Level", "type": "Double", "historized": True},
            {"attribute": "Level.HiHi", "type": "Boolean", "alarm": True},
            {"attribute": "Profile", "type": "Float", "array": 50, "security": "verified"},
        ],
    },
    {
        "object": "Inlet",
        "parent": "Tank1",
        "contained_name": "In",
        "template": "$Valve",
        "attributes": [{"attribute": "Open", "type": "Boolean", "security": "secured"}],
    },
    {"object": "Tank2", "parent": "North", "template": "$Tank/$UserDefined"},
]


async def browsed(path: Path) -> list[pb.GalaxyObject]:
    async with (
        SimulatedGateway(galaxy_file=str(path)) as gateway,
        await GalaxyRepositoryClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
    ):
        by_path = await client.discover_hierarchy(root_contained_path="Tank1.In")
        assert [each.tag_name for each in by_path] == ["Inlet"]
        return await client.discover_hierarchy()


async def test_json_and_csv_hold_the_same_galaxy(tmp_path: Path) -> None:
    table, listed, packed = (tmp_path / name for name in ("g.csv", "g.json", "packed.json"))
    table.write_text(CSV)
    listed.write_text(json.dumps(JSON, indent=2))
    packed.write_text(json.dumps(JSON, separators=(",", ":")))
    objects = await browsed(table)
    assert objects == await browsed(listed) == await browsed(packed)
    north, tank, inlet, other = sorted(objects, key=lambda each: each.gobject_id)
    assert (north.tag_name, north.is_area, north.parent_gobject_id) == ("North", True, 0)
    assert list(tank.template_chain) == ["$Tank", "$UserDefined"]
    level, alarm, profile = tank.attributes
    assert (level.full_tag_reference, level.data_type_name) == ("Tank1.Level", "Double")
    assert level.is_historized
    assert not level.is_alarm
    assert (alarm.attribute_name, alarm.is_alarm) == ("Level.HiHi", True)
    assert (profile.array_dimension, profile.security_classification) == (50, 3)
    assert (inlet.parent_gobject_id, inlet.browse_name) == (tank.gobject_id, "In")
    assert inlet.attributes[0].security_classification == 2
    assert not other.attributes


FINE: dict[str, Any] = {"object": "A", "attributes": [{"attribute": "x", "type": "Double"}]}


def with_attribute(**fields: Any) -> list[Any]:
    return [{"object": "A", "attributes": [{"attribute": "x", "type": "Double", **fields}]}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "there are no objects"),
        ([3], "line 2: 3 is not an object with fields"),
        ([FINE, {}], "line 11, field object: '' is not a name"),
        ([FINE, FINE], "line 11, field object: 'A' is not a name of its own: it stands above"),
        ([FINE, {"object": "a"}], "line 11, field object: 'a' is not a name of its own"),
        ([{"object": "A.B"}], "line 2, field object: 'A.B' is not a name without dots"),
        ([{"object": 7}], "line 2, field object: 7 is not text"),
        ([{"object": "A", "parent": "B"}], "field parent: 'B' is not the name of an object above"),
        ([{"object": "A", "contained_name": "B"}], "field contained_name: 'B' is not"),
        ([{"object": "A", "area": "true"}], "field area: 'true' is not yes or no"),
        ([{"object": "A", "colour": "red"}], "field colour: 'red' is not known; the fields are"),
        ([{"object": "A", "attributes": {}}], "field attributes: {} is not a list"),
        ([{"object": "A", "attributes": ["x"]}], "field attributes: 'x' is not an object"),
        (with_attribute(attribute="a b"), "line 2, attribute 1, field attribute: 'a b' is not"),
        (with_attribute(type="Real"), "field type: 'Real' is not one of Boolean, Integer, Float"),
        (with_attribute(type=None), "field type: None is not text"),
        (with_attribute(array=-1), "field array: -1 is not a number from 0 to 1000000"),
        (with_attribute(array=True), "field array: True is not a number"),
        (with_attribute(array="ten"), "field array: 'ten' is not a number"),
        (with_attribute(alarm=1), "field alarm: 1 is not yes or no"),
        (with_attribute(security="high"), "field security: 'high' is not one of free, operate"),
        (with_attribute(colour="red"), "field colour: 'red' is not known"),
        ([{"object": "A", "attributes": FINE["attributes"] * 2}], "attribute 2, field attribute"),
    ],
)
async def test_wrong_json_is_named_by_line_field_and_value(
    tmp_path: Path, content: list[Any], complaint: str
) -> None:
    file = tmp_path / "galaxy.json"
    file.write_text(json.dumps(content, indent=2))
    await refused(file, complaint)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"line 1: '' where \[ must be"),
        ("{}", r"line 1: '{' where \[ must be"),
        ('[\n\n{"object": \n nonsense}]', "line 4: Expecting value"),
        ('[\n{"object": "A"}\n{"object": "B"}]', "line 3: '{' where , or ] must be"),
        ('[{"object": "A"},\n]', "line 2: ']' where { must be"),
        ('[{"object": "A"}', "line 1: '' where , or ] must be"),
        ('[{"object": "A"}]\n[]', r"line 2: '\[' where the end must be"),
        ('[{"object": "T\xe4nk"}]', "not UTF-8"),
    ],
)
async def test_what_is_no_json_is_named_by_line(
    tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "galaxy.json"
    file.write_text(content, "latin-1")
    await refused(file, complaint)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "line 1: the column object is missing"),
        ("parent\nA\n", "line 1: the column object is missing"),
        ("object,object\nA,A\n", "line 1: .* stands twice"),
        ("object,colour\nA,red\n", "line 1, field colour: '' is not known"),
        ("object\n", "there are no objects"),
        ("object,area\nA\n", "line 2: 1 cells, but the header has 2"),
        ("object,area\nA,maybe\n", "line 2, field area: 'maybe' is not yes or no"),
        (
            "object,attribute,type\nA,x,Double\nA,y,double\n",
            "line 3, field type: 'double' is not one of",
        ),
        (
            "object,template,attribute,type\nA,$T,x,Double\nA,$U,y,Double\n",
            r"line 3, field template: '\$U' is not the object's own, '\$T'",
        ),
        (
            "object,attribute,type\nA,x,Double\nB,,\nA,y,Double\n",
            "line 4, field object: 'A' is not a name of its own",
        ),
        ("object,array\nA,3\n", "line 2, field attribute: '' is not a name"),
        (
            'object,attribute,type\nA,x,Double\nA,"y,Double\n' + "A,z,Double\n" * 20_000,
            r"line 3: field larger than field limit .*; is a quote left open\?",
        ),
        ("object\nT\xe4nk\n", "not UTF-8"),
    ],
)
async def test_wrong_csv_is_named_by_line_field_and_value(
    tmp_path: Path, content: str, complaint: str
) -> None:
    file = tmp_path / "galaxy.csv"
    file.write_text(content, "latin-1")
    await refused(file, complaint)


async def refused(file: Path, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        async with SimulatedGateway(galaxy_file=file):
            pytest.fail("it started")
    assert str(caught.value).startswith(str(file))


async def test_another_kind_of_file_or_none_is_refused(tmp_path: Path) -> None:
    await refused(tmp_path / "galaxy.xml", "ends in '.xml', not .json or .csv")
    with pytest.raises(FileNotFoundError):
        async with SimulatedGateway(galaxy_file=str(tmp_path / "galaxy.json")):
            pytest.fail("it started")


async def test_tags_are_there_besides_the_file_s(tmp_path: Path) -> None:
    file = tmp_path / "galaxy.csv"
    file.write_text(CSV)
    async with (
        SimulatedGatewayProcess(galaxy_file=str(file), tags=["Other.x"]) as gateway,
        await GalaxyRepositoryClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
    ):
        assert len(await client.discover_hierarchy()) == 4


MILLION = """
import asyncio, resource
from mxfast import GatewayClient
from mxfast.simulator import SimulatedGateway

async def main():
    async with SimulatedGateway(galaxy_objects=282_000) as gateway:
        names = [
            f"{each.tag_name}.{name}"
            for each in gateway.galaxy
            for name in each.template.attributes
        ]
        database = gateway._run.plant.database
        for name in names:
            database.find(name)
        print(len(names), len(database), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

asyncio.run(main())
"""


def test_a_million_attributes_and_their_tags_in_a_gigabyte() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MILLION], check=True, capture_output=True, text=True
    )
    attributes, tags, kilobytes = map(int, done.stdout.split())
    assert attributes == tags >= 1_000_000
    assert kilobytes * 1024 < 1e9
