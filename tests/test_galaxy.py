"""The galaxy repository: client and simulated galaxy, over real gRPC."""

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mxfast import (
    GalaxyRepositoryClient,
    MalformedReplyError,
    MxGatewayAuthorizationError,
    MxGatewayCommandError,
)
from mxfast.contract import galaxy_repository as pb
from mxfast.galaxy import GalaxyNode
from mxfast.simulator import SimulatedGateway
from tests.conftest import KEY, SECRET, Context, ScriptedGateway


def connect(gateway: SimulatedGateway) -> Any:
    return GalaxyRepositoryClient.connect(
        endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
    )


@pytest.fixture
async def galaxy(gateway: SimulatedGateway) -> AsyncIterator[GalaxyRepositoryClient]:
    async with await connect(gateway) as client:
        yield client


@pytest.fixture
async def scripted_galaxy(scripted: ScriptedGateway) -> AsyncIterator[GalaxyRepositoryClient]:
    async with await GalaxyRepositoryClient.connect(
        endpoint=scripted.endpoint, api_key=KEY, plaintext=True
    ) as client:
        yield client


class Pages:
    """DiscoverHierarchy or BrowseChildren answered from a list of replies."""

    def __init__(self, *replies: pb.DiscoverHierarchyReply | pb.BrowseChildrenReply) -> None:
        self.replies = list(replies)
        self.requests: list[bytes] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def answer(self, request: bytes, context: Context) -> bytes:
        self.requests.append(request)
        await self.go_on.wait()
        return self.replies[min(len(self.requests), len(self.replies)) - 1].SerializeToString()


def page(token: str, *ids: int) -> pb.DiscoverHierarchyReply:
    objects = [pb.GalaxyObject(gobject_id=number) for number in ids]
    return pb.DiscoverHierarchyReply(objects=objects, next_page_token=token)


# The whole hierarchy


async def test_the_hierarchy_is_whole_and_reproducible(galaxy: GalaxyRepositoryClient) -> None:
    objects = await galaxy.discover_hierarchy()
    assert len(objects) == 100
    assert len({each.gobject_id for each in objects}) == 100
    assert len({each.tag_name for each in objects}) == 100
    seen = {0}
    for each in objects:
        assert each.parent_gobject_id in seen, "parents come before their children"
        seen.add(each.gobject_id)
    assert any(each.is_area for each in objects)
    assert any(each.contained_name for each in objects)
    attributes = [attribute for each in objects for attribute in each.attributes]
    assert any(attribute.is_array and attribute.array_dimension == 50 for attribute in attributes)
    assert any(attribute.is_alarm for attribute in attributes)
    first = attributes[0]
    assert first.full_tag_reference == f"{objects[0].tag_name}.{first.attribute_name}"
    assert first.data_type_name
    for seed, same in ((0, True), (1, False)):
        async with SimulatedGateway(galaxy_seed=seed) as other, await connect(other) as client:
            assert (await client.discover_hierarchy() == objects) == same


@pytest.mark.parametrize("page_size", [1, 7, 100, 5000])
async def test_pages_give_what_one_page_gives(
    galaxy: GalaxyRepositoryClient, page_size: int
) -> None:
    objects = await galaxy.discover_hierarchy(include_attributes=False)
    assert not any(each.attributes for each in objects)
    paged = galaxy.iter_hierarchy(page_size=page_size, include_attributes=False)
    assert [each async for each in paged] == objects


async def test_default_and_largest_page(scripted: ScriptedGateway) -> None:
    async with SimulatedGateway(galaxy_objects=6000) as gateway, await connect(gateway) as client:
        for asked, length in ((0, 500), (10, 10), (100_000, 5000)):
            reply = await client._unary(
                "/galaxy_repository.v1.GalaxyRepository/DiscoverHierarchy",
                pb.DiscoverHierarchyRequest(page_size=asked, include_attributes=False),
                pb.DiscoverHierarchyReply,
                "test",
            )
            assert len(reply.objects) == length
            assert reply.total_object_count == 6000


async def test_filters(galaxy: GalaxyRepositoryClient) -> None:
    everything = await galaxy.discover_hierarchy()

    async def tags(**filters: Any) -> set[str]:
        return {each.tag_name for each in await galaxy.discover_hierarchy(**filters)}

    def expected(wanted: Any) -> set[str]:
        found = {each.tag_name for each in everything if wanted(each)}
        assert found, "a filter that fits nothing shows nothing"
        return found

    assert await tags(category_ids=[13]) == expected(lambda each: each.is_area)
    assert await tags(category_ids=[13, 10]) == expected(lambda each: True)
    assert await tags(tag_name_glob="pump_*") == expected(lambda e: e.tag_name.startswith("Pump_"))
    assert await tags(template_chain_contains=["$Tank", "$Valve"]) == expected(
        lambda each: {"$Tank", "$Valve"} & set(each.template_chain)
    )
    assert await tags(alarm_bearing_only=True) == expected(
        lambda each: any(attribute.is_alarm for attribute in each.attributes)
    )
    assert await tags(historized_only=True, tag_name_glob="*1") == expected(
        lambda each: (
            each.tag_name.endswith("1")
            and any(attribute.is_historized for attribute in each.attributes)
        )
    )
    assert await tags(tag_name_glob="Nothing*") == set()


async def test_roots_and_depth(galaxy: GalaxyRepositoryClient) -> None:
    everything = await galaxy.discover_hierarchy()
    contained = next(each for each in everything if each.contained_name)
    holder = everything[[e.gobject_id for e in everything].index(contained.parent_gobject_id)]
    for root in (
        {"root_gobject_id": holder.gobject_id},
        {"root_tag_name": holder.tag_name},
        {"root_contained_path": holder.tag_name.upper()},
    ):
        found = await galaxy.discover_hierarchy(**root)
        assert found[0] == holder
        assert contained in found
        assert await galaxy.discover_hierarchy(max_depth=0, **root) == [holder]
    path = f"{holder.tag_name}.{contained.contained_name}"
    assert await galaxy.discover_hierarchy(root_contained_path=path) == [contained]
    top = await galaxy.discover_hierarchy(max_depth=0)
    assert [each.parent_gobject_id for each in top] == [0]


@pytest.mark.parametrize(
    "root", [{"root_tag_name": "Nobody"}, {"root_gobject_id": 101}, {"root_contained_path": "A.B"}]
)
async def test_a_missing_root_is_not_found(
    galaxy: GalaxyRepositoryClient, root: dict[str, Any]
) -> None:
    with pytest.raises(MxGatewayCommandError, match=r"discover_hierarchy: .*NOT_FOUND") as caught:
        await galaxy.discover_hierarchy(**root)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(MxGatewayCommandError, match=r"browse: .*NOT_FOUND"):
        await galaxy.browse(parent_tag_name="Nobody")


async def test_a_token_is_refused_after_a_deploy_and_for_other_filters(
    gateway: SimulatedGateway, galaxy: GalaxyRepositoryClient
) -> None:
    objects = galaxy.iter_hierarchy(page_size=60)
    for _ in range(60):
        await anext(objects)
    gateway.galaxy.deploy()
    with pytest.raises(MxGatewayCommandError, match="stale") as caught:
        await anext(objects)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT

    path = "/galaxy_repository.v1.GalaxyRepository/"
    request = pb.DiscoverHierarchyRequest(page_size=60)
    reply = await galaxy._unary(f"{path}DiscoverHierarchy", request, pb.DiscoverHierarchyReply, "")
    for token in (reply.next_page_token, "7:abc:2", "x", f"{reply.next_page_token}9"):
        other = pb.DiscoverHierarchyRequest(page_token=token, historized_only=True)
        with pytest.raises(MxGatewayCommandError, match="INVALID_ARGUMENT"):
            await galaxy._unary(f"{path}DiscoverHierarchy", other, pb.DiscoverHierarchyReply, "")
        browse = pb.BrowseChildrenRequest(page_token=token)
        with pytest.raises(MxGatewayCommandError, match="INVALID_ARGUMENT"):
            await galaxy._unary(f"{path}BrowseChildren", browse, pb.BrowseChildrenReply, "")
    request.page_token = reply.next_page_token
    rest = await galaxy._unary(f"{path}DiscoverHierarchy", request, pb.DiscoverHierarchyReply, "")
    assert len(rest.objects) == 40


async def test_iter_hierarchy_holds_one_page_and_never_prefetches(
    scripted: ScriptedGateway, scripted_galaxy: GalaxyRepositoryClient
) -> None:
    pages = Pages(page("a", 1, 2), page("b", 3), page("c"), page("", 4))
    scripted.unary["DiscoverHierarchy"] = pages.answer
    objects = scripted_galaxy.iter_hierarchy()
    assert pages.requests == [], "nothing is asked for before the first object is wanted"
    asked = []
    async for each in objects:
        asked.append((each.gobject_id, len(pages.requests)))
    assert asked == [(1, 1), (2, 1), (3, 2), (4, 4)]
    sent = [pb.DiscoverHierarchyRequest.FromString(request) for request in pages.requests]
    assert [request.page_token for request in sent] == ["", "a", "b", "c"]


class HeldPage:
    """A page whose objects keep it, as those of protobuf keep theirs, and that can be watched."""

    def __init__(self, number: int) -> None:
        self.objects = [self.Object(self) for _ in range(3)]
        self.next_page_token = str(number) if number < 4 else ""

    class Object:
        def __init__(self, page: "HeldPage") -> None:
            self.page = page


async def test_a_page_is_let_go_before_the_next_is_asked_for(
    scripted_galaxy: GalaxyRepositoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[weakref.ref[HeldPage]] = []

    async def answer(*arguments: object) -> HeldPage:
        gc.collect()  # a page and its objects keep each other
        assert [page() for page in pages] == [None] * len(pages)
        page = HeldPage(len(pages) + 1)
        pages.append(weakref.ref(page))
        return page

    monkeypatch.setattr(scripted_galaxy, "_unary", answer)
    objects = scripted_galaxy.iter_hierarchy()
    for _ in range(12):
        await anext(objects)
    assert len(pages) == 4
    with pytest.raises(StopAsyncIteration):
        await anext(objects)


MEMORY = """
import asyncio
from pathlib import Path
from mxfast import GalaxyRepositoryClient
from mxfast.simulator import SimulatedGatewayProcess

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main():
    async with (
        SimulatedGatewayProcess(galaxy_objects=50_000) as gateway,
        await GalaxyRepositoryClient.connect(
            endpoint=gateway.endpoint, api_key=gateway.api_key, plaintext=True
        ) as client,
    ):
        count = 0
        async for each in client.iter_hierarchy():
            count += len(each.attributes) > 0
            if count == 1500:
                before = resident()
        print(count, resident() - before)

asyncio.run(main())
"""


def test_fifty_thousand_objects_in_the_memory_of_a_page() -> None:
    output = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True
    ).stdout
    count, growth = map(int, output.split())
    assert count == 50_000
    # A page holds 500; all objects would be 45 MB.
    assert growth < 15e6


@pytest.mark.parametrize("tokens", [["a", "a"], ["a", "b", "a"]])
async def test_a_repeated_page_token_is_refused(
    scripted: ScriptedGateway, scripted_galaxy: GalaxyRepositoryClient, tokens: list[str]
) -> None:
    pages = Pages(*(page(token, number) for number, token in enumerate(tokens, 1)))
    scripted.unary["DiscoverHierarchy"] = pages.answer
    seen = []

    async def read_on() -> None:
        async for each in scripted_galaxy.iter_hierarchy():
            seen.append(each.gobject_id)

    with pytest.raises(MalformedReplyError, match="discover_hierarchy: the page token 'a' came"):
        await read_on()
    assert seen == list(range(1, len(tokens) + 1))
    assert len(pages.requests) == len(tokens)


# Node by node


async def test_browsing_node_by_node_finds_everything(galaxy: GalaxyRepositoryClient) -> None:
    everything = {each.gobject_id: each for each in await galaxy.discover_hierarchy()}
    found = {}

    async def walk(nodes: list[GalaxyNode]) -> None:
        for node in nodes:
            found[node.object.gobject_id] = node.object
            children = await node.expand()
            assert node.children is children
            assert node.has_children == (children != [])
            await walk(children)

    await walk(await galaxy.browse(page_size=3))
    assert found == everything
    area = await galaxy.browse(parent_gobject_id=1, include_attributes=False)
    assert {node.object.parent_gobject_id for node in area} == {1}
    assert not any(node.object.attributes for node in area)
    assert repr(area[0]) == f"<GalaxyNode {area[0].object.tag_name}>"


async def test_expand_is_idempotent_and_sends_one_request_under_concurrency(
    scripted: ScriptedGateway, scripted_galaxy: GalaxyRepositoryClient
) -> None:
    pages = Pages(
        pb.BrowseChildrenReply(children=[pb.GalaxyObject(gobject_id=1)], child_has_children=[True]),
        pb.BrowseChildrenReply(
            children=[pb.GalaxyObject(gobject_id=2)], child_has_children=[False]
        ),
    )
    scripted.unary["BrowseChildren"] = pages.answer
    (node,) = await scripted_galaxy.browse(tag_name_glob="T*")
    assert node.children is None
    pages.go_on.clear()
    waiting = [asyncio.create_task(node.expand()) for _ in range(5)]
    while len(pages.requests) < 2:  # noqa: ASYNC110 - nobody else is told
        await asyncio.sleep(0.001)
    waiting[0].cancel()
    pages.go_on.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    (child,) = await node.expand()
    assert all(result == [child] for result in results[1:])
    assert len(pages.requests) == 2
    sent = pb.BrowseChildrenRequest.FromString(pages.requests[1])
    assert (sent.parent_gobject_id, sent.tag_name_glob) == (1, "T*")


@pytest.mark.parametrize("parent", [{}, {"parent_tag_name": "Area"}])
@pytest.mark.parametrize("kind", [lambda given: given, iter], ids=["list", "iterator"])
async def test_nodes_ask_with_the_filters_as_they_were(
    scripted: ScriptedGateway, scripted_galaxy: GalaxyRepositoryClient, kind: Any, parent: Any
) -> None:
    def answers(number: int) -> list[pb.BrowseChildrenReply]:
        children = [pb.GalaxyObject(gobject_id=number)]
        page = pb.BrowseChildrenReply(children=children, child_has_children=[True])
        return [pb.BrowseChildrenReply(next_page_token=f"more of {number}"), page]

    pages = Pages(*answers(1), *answers(2), *answers(3))
    scripted.unary["BrowseChildren"] = pages.answer
    categories, templates = [13, 10], ["$Tank"]
    (node,) = await scripted_galaxy.browse(
        category_ids=kind(categories), template_chain_contains=kind(templates), **parent
    )
    categories.append(11)
    templates.clear()
    (child,) = await node.expand()
    await child.expand()
    expected: list[pb.BrowseChildrenRequest] = []
    for number, asked in enumerate([parent, {"parent_gobject_id": 1}, {"parent_gobject_id": 2}]):
        filters = pb.BrowseChildrenRequest(
            category_ids=[13, 10], template_chain_contains=["$Tank"], **asked
        )
        expected += [filters, pb.BrowseChildrenRequest()]
        expected[-1].CopyFrom(filters)
        expected[-1].page_token = f"more of {number + 1}"
    assert [pb.BrowseChildrenRequest.FromString(sent) for sent in pages.requests] == expected


async def test_a_failed_expand_is_made_again(
    scripted: ScriptedGateway, scripted_galaxy: GalaxyRepositoryClient
) -> None:
    good = pb.BrowseChildrenReply(
        children=[pb.GalaxyObject(gobject_id=1)], child_has_children=[True]
    )
    lacking = pb.BrowseChildrenReply(children=[pb.GalaxyObject(gobject_id=2, tag_name=KEY)])
    scripted.unary["BrowseChildren"] = Pages(good, lacking, good).answer
    (node,) = await scripted_galaxy.browse()
    with pytest.raises(MalformedReplyError, match="1 children came and 0 words") as caught:
        await node.expand()
    assert SECRET not in repr(caught.value.reply)
    assert node.children is None
    assert len(await node.expand()) == 1


# Deploys


async def test_connection_and_last_deploy(
    gateway: SimulatedGateway, galaxy: GalaxyRepositoryClient
) -> None:
    assert await galaxy.test_connection() is True
    gateway.galaxy.connected = False
    assert await galaxy.test_connection() is False
    before = await galaxy.get_last_deploy_time()
    gateway.galaxy.deploy()
    after = await galaxy.get_last_deploy_time()
    assert before is not None
    assert after is not None
    assert before < after
    assert after.tzinfo is UTC


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (pb.GetLastDeployTimeReply(), None),
        (pb.GetLastDeployTimeReply(time_of_last_deploy=Timestamp(seconds=1)), None),
        (
            pb.GetLastDeployTimeReply(present=True, time_of_last_deploy=Timestamp(seconds=1)),
            datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        ),
        (
            pb.GetLastDeployTimeReply(present=True, time_of_last_deploy=Timestamp(seconds=2**60)),
            MalformedReplyError,
        ),
    ],
)
async def test_last_deploy_times(
    scripted: ScriptedGateway,
    scripted_galaxy: GalaxyRepositoryClient,
    reply: pb.GetLastDeployTimeReply,
    expected: Any,
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        return reply.SerializeToString()

    scripted.unary["GetLastDeployTime"] = answer
    if expected is MalformedReplyError:
        with pytest.raises(MalformedReplyError, match="get_last_deploy_time"):
            await scripted_galaxy.get_last_deploy_time()
    else:
        assert await scripted_galaxy.get_last_deploy_time() == expected


async def test_deploys_are_watched_and_gaps_counted(
    gateway: SimulatedGateway, galaxy: GalaxyRepositoryClient
) -> None:
    async with galaxy.watch_deploy_events() as events:
        first = await anext(events)
        assert first.object_count == 100
        assert first.attribute_count > 100
        assert first.time_of_last_deploy_present
        gateway.galaxy.deploy()
        second = await anext(events)
        assert (second.sequence, events.missed) == (first.sequence + 1, 0)
        gateway.galaxy.deploy(told=False)
        gateway.galaxy.deploy(told=False)
        gateway.galaxy.deploy()
        third = await anext(events)
        assert (third.sequence, events.missed) == (first.sequence + 4, 2)
        gateway.galaxy.deploy()
        await anext(events)
        assert events.missed == 0


async def test_a_deploy_already_seen_is_not_told_again(
    gateway: SimulatedGateway, galaxy: GalaxyRepositoryClient
) -> None:
    async with galaxy.watch_deploy_events() as events:
        first = await anext(events)
    async with galaxy.watch_deploy_events(first.time_of_last_deploy) as events:
        waiting = asyncio.create_task(anext(events))
        async with galaxy.watch_deploy_events(datetime(2000, 1, 1, tzinfo=UTC)) as others:
            assert (await anext(others)).sequence == first.sequence
        gateway.galaxy.deploy()
        assert (await waiting).sequence == first.sequence + 1


@pytest.mark.parametrize("sequences", [(5, 5), (5, 4)])
async def test_a_sequence_that_does_not_go_up_is_refused(
    scripted: ScriptedGateway, scripted_galaxy: GalaxyRepositoryClient, sequences: tuple[int, int]
) -> None:
    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for sequence in sequences:
            yield pb.DeployEvent(sequence=sequence).SerializeToString()

    scripted.stream["WatchDeployEvents"] = stream
    events = scripted_galaxy.watch_deploy_events()
    await anext(events)
    with pytest.raises(MalformedReplyError, match="watch_deploy_events: sequence"):
        await anext(events)


# Access and bad input


async def test_the_galaxy_needs_its_scope() -> None:
    async with (
        SimulatedGateway(api_keys={"mxgw_writer_0": ["invoke:write"]}) as gateway,
        await connect(gateway) as client,
    ):
        for call in (
            client.test_connection,
            client.get_last_deploy_time,
            client.discover_hierarchy,
            client.browse,
            lambda: anext(client.watch_deploy_events()),
        ):
            with pytest.raises(MxGatewayAuthorizationError, match="metadata:read"):
                await call()


@pytest.mark.parametrize(
    ("filters", "error", "named"),
    [
        ({"colour": "red"}, TypeError, "colour is no filter"),
        ({"parent_tag_name": "A"}, TypeError, "parent_tag_name is no filter"),
        ({"root_tag_name": "A", "root_gobject_id": 1}, ValueError, "only one of"),
        ({"page_size": -1}, ValueError, "page_size"),
        ({"page_size": 2**31}, ValueError, "page_size"),
        ({"page_size": True}, TypeError, "page_size"),
        ({"max_depth": -1}, ValueError, "max_depth"),
        ({"category_ids": None}, TypeError, "category_ids"),
        ({"category_ids": ["Area"]}, TypeError, r"category_ids\[0\]"),
        ({"template_chain_contains": "$Tank"}, TypeError, "template_chain_contains"),
        ({"tag_name_glob": 5}, TypeError, "tag_name_glob"),
        ({"include_attributes": 1}, TypeError, "include_attributes"),
        ({"root_tag_name": None}, TypeError, "root_tag_name"),
    ],
)
async def test_wrong_filters_send_nothing(
    scripted: ScriptedGateway,
    scripted_galaxy: GalaxyRepositoryClient,
    filters: dict[str, Any],
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        await scripted_galaxy.discover_hierarchy(**filters)
    assert scripted.calls == []


def test_the_galaxy_is_there_only_while_the_gateway_runs() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = SimulatedGateway().galaxy
