"""The galaxy repository: the deployed objects, their attributes, and when they change."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any, TypedDict, TypeVar, Unpack

from google.protobuf.timestamp_pb2 import Timestamp

from mxfast.checks import in_range, shown, text
from mxfast.connection import Connection
from mxfast.contract import GALAXY_METHODS
from mxfast.contract import galaxy_repository as pb
from mxfast.errors import MalformedReplyError, without_key
from mxfast.streams import MessageIterator
from mxfast.transport import MessageStream
from mxfast.values import from_timestamp, to_timestamp

__all__ = ["GalaxyNode", "GalaxyRepositoryClient"]

RequestT = TypeVar("RequestT", pb.DiscoverHierarchyRequest, pb.BrowseChildrenRequest)
PageT = TypeVar("PageT", pb.DiscoverHierarchyReply, pb.BrowseChildrenReply)


class Filters(TypedDict, total=False):
    """What objects to ask for; all that is given must hold."""

    page_size: int
    """Objects of one reply; the gateway's own, some 500, by default (inferred)."""
    category_ids: Iterable[int]
    """Categories of objects, any of them."""
    template_chain_contains: Iterable[str]
    """Templates that objects derive from, any of them."""
    tag_name_glob: str
    """Pattern for tag names, with ``*`` and ``?``."""
    include_attributes: bool
    """Whether objects come with their attributes."""
    alarm_bearing_only: bool
    """Only objects with an alarm."""
    historized_only: bool
    """Only objects with a historized attribute."""


class HierarchyFilters(Filters, total=False):
    """`Filters`, and where to begin: at one of the three roots, or at the top."""

    root_gobject_id: int
    root_tag_name: str
    root_contained_path: str
    max_depth: int
    """Levels below the root."""


class BrowseFilters(Filters, total=False):
    """`Filters`, and whose children to ask for: one of the three parents', or the top."""

    parent_gobject_id: int
    parent_tag_name: str
    parent_contained_path: str


class GalaxyNode:
    """An object with children that are asked for when they are wanted.

    Attributes
    ----------
    object : GalaxyObject
        The object itself, as a message.
    has_children : bool
        Whether it has any, whatever the filters.
    children : list of GalaxyNode or None
        None until `expand` has asked for them.
    """

    __slots__ = ("_expanding", "_filters", "_galaxy", "children", "has_children", "object")

    object: pb.GalaxyObject
    has_children: bool
    children: "list[GalaxyNode] | None"

    def __init__(
        self,
        galaxy: "GalaxyRepositoryClient",
        message: pb.GalaxyObject,
        has_children: bool,
        filters: pb.BrowseChildrenRequest,
    ) -> None:
        self.object = message
        self.has_children = has_children
        self.children = None
        self._galaxy = galaxy
        self._filters = filters
        self._expanding: asyncio.Task[list[GalaxyNode]] | None = None

    async def expand(self) -> "list[GalaxyNode]":
        """Return the children, asking for them the first time; with the filters of `browse`.

        Callers at the same time share one request. One that fails is made again by the
        next caller.
        """
        if self.children is not None:
            return self.children
        if self._expanding is None:
            self._expanding = asyncio.ensure_future(self._ask())
        # A caller that is cancelled leaves the others their answer.
        return await asyncio.shield(self._expanding)

    async def _ask(self) -> "list[GalaxyNode]":
        try:
            request = pb.BrowseChildrenRequest()
            request.CopyFrom(self._filters)
            request.parent_gobject_id = self.object.gobject_id
            self.children = await self._galaxy._children(request)
        finally:
            self._expanding = None
        return self.children

    def __repr__(self) -> str:
        return f"<GalaxyNode {self.object.tag_name}>"


class DeployEvents(MessageIterator[pb.DeployEvent]):
    """Deploy events, from `GalaxyRepositoryClient.watch_deploy_events`.

    Attributes
    ----------
    missed : int
        Events that the gateway dropped just before the one returned last: its sequence
        counts up by one, so a gap is a loss (contract notes, Galaxy repository). After a
        loss what is known of the galaxy is out of date.
    """

    missed: int

    def __init__(self, stream: MessageStream) -> None:
        super().__init__(stream, pb.DeployEvent, "watch_deploy_events")
        self.missed = 0
        self._sequence: int | None = None

    async def __anext__(self) -> pb.DeployEvent:
        """Return the next event, and set `missed`.

        Raises
        ------
        MxGatewayError
            The stream failed.
        MalformedReplyError
            The sequence does not go up.
        """
        event = await super().__anext__()
        before, self._sequence = self._sequence, event.sequence
        if before is None:
            return event
        if event.sequence <= before:
            await self.aclose()
            raise MalformedReplyError(
                f"sequence {event.sequence} follows {before}",
                operation=self._operation,
                reply=event,
            )
        self.missed = event.sequence - before - 1
        return event


class GalaxyRepositoryClient(Connection):
    """A client of the galaxy repository; an async context manager.

    Needs a key with the scope ``metadata:read``; ``await GalaxyRepositoryClient.connect(...)``
    makes one that is connected. The filters of `discover_hierarchy`, `iter_hierarchy` and
    `browse` are keywords: see `Filters`, `HierarchyFilters` and `BrowseFilters`.

    Parameters
    ----------
    options : ClientOptions
        What to connect to.
    channel : grpc.aio.Channel, optional
        A channel to use instead of making one; it is not closed by the client.
    stub : object, optional
        For tests, in place of a channel: see `GatewayClient`.
    """

    async def test_connection(self) -> bool:
        """Tell whether the gateway reaches the galaxy's database."""
        reply = await self._unary(
            GALAXY_METHODS["TestConnection"],
            pb.TestConnectionRequest(),
            pb.TestConnectionReply,
            "test_connection",
        )
        return reply.ok

    async def get_last_deploy_time(self) -> datetime | None:
        """Return when the galaxy was deployed last, in UTC; None where it never was."""
        reply = await self._unary(
            GALAXY_METHODS["GetLastDeployTime"],
            pb.GetLastDeployTimeRequest(),
            pb.GetLastDeployTimeReply,
            "get_last_deploy_time",
        )
        if not reply.present:
            return None
        try:
            return from_timestamp(reply.time_of_last_deploy)
        except OverflowError:
            raise MalformedReplyError(
                "the time lies outside the years 1 to 9999",
                operation="get_last_deploy_time",
                reply=reply,
            ) from None

    async def discover_hierarchy(
        self, **filters: Unpack[HierarchyFilters]
    ) -> list[pb.GalaxyObject]:
        """Return all objects that fit, page by page, in one list.

        A galaxy may have 50,000 objects and more (contract notes, Galaxy repository):
        `iter_hierarchy` holds no more than a page of them.

        Raises
        ------
        TypeError, ValueError
            A wrong filter.
        MxGatewayCommandError
            No such root (code ``NOT_FOUND``), or the galaxy was deployed between two pages
            (``INVALID_ARGUMENT``): begin again.
        """
        return [each async for each in self.iter_hierarchy(**filters)]

    async def iter_hierarchy(
        self, **filters: Unpack[HierarchyFilters]
    ) -> AsyncIterator[pb.GalaxyObject]:
        """Return the objects that fit one by one, in an async generator.

        One page is held at a time, and the next is asked for when the last object of it
        has been taken. Errors as for `discover_hierarchy`, and:

        Raises
        ------
        MalformedReplyError
            The gateway repeats a page token.
        """
        request = _request(pb.DiscoverHierarchyRequest, HierarchyFilters, "root", filters)
        operation = "discover_hierarchy"
        pages = self._pages("DiscoverHierarchy", request, pb.DiscoverHierarchyReply, operation)
        async for page in pages:
            objects = list(reversed(page.objects))
            del page  # any object left in a variable would keep the page until the next came
            while objects:
                yield objects.pop()

    async def browse(self, **filters: Unpack[BrowseFilters]) -> list[GalaxyNode]:
        """Return the objects at the top of the galaxy, or the children of one, as nodes.

        Each node asks for its own children with `GalaxyNode.expand`, with the same filters.
        Errors as for `iter_hierarchy`.
        """
        request = _request(pb.BrowseChildrenRequest, BrowseFilters, "parent", filters)
        return await self._children(request)

    async def _children(self, request: pb.BrowseChildrenRequest) -> list[GalaxyNode]:
        # A copy for the nodes to ask with: of the caller's filters a list may change and an
        # iterator be at its end, and `_pages` puts its tokens into the request.
        filters = pb.BrowseChildrenRequest()
        filters.CopyFrom(request)
        nodes = []
        async for page in self._pages("BrowseChildren", request, pb.BrowseChildrenReply, "browse"):
            if len(page.child_has_children) != len(page.children):
                raise MalformedReplyError(
                    f"{len(page.children)} children came and {len(page.child_has_children)} "
                    "words on whether they have any",
                    operation="browse",
                    reply=without_key(page, self._transport.redact),
                )
            for child, has_children in zip(page.children, page.child_has_children, strict=True):
                nodes.append(GalaxyNode(self, child, has_children, filters))
        return nodes

    async def _pages(
        self, method: str, request: RequestT, reply_type: type[PageT], operation: str
    ) -> AsyncIterator[PageT]:
        tokens = set()
        while True:
            page = await self._unary(GALAXY_METHODS[method], request, reply_type, operation)
            token = page.next_page_token
            yield page
            del page  # before the next one comes
            if not token:
                return
            if token in tokens:
                raise MalformedReplyError(
                    f"the page token {shown(token)} came twice", operation=operation
                )
            tokens.add(token)
            request.page_token = token

    def watch_deploy_events(
        self, last_seen_deploy_time: datetime | Timestamp | None = None
    ) -> DeployEvents:
        """Open the stream of deploys: the present state at once, then an event for each.

        Parameters
        ----------
        last_seen_deploy_time : datetime or Timestamp, optional
            The deploy already known, whose event is then left out (inferred): the
            ``time_of_last_deploy`` of an event, or a datetime, where naive means UTC.

        Returns
        -------
        DeployEvents
            An async iterator of DeployEvent messages; its ``missed`` says whether the
            gateway dropped some.
        """
        request = pb.WatchDeployEventsRequest()
        if isinstance(last_seen_deploy_time, datetime):
            last_seen_deploy_time = to_timestamp(last_seen_deploy_time)
        if last_seen_deploy_time is not None:
            request.last_seen_deploy_time.CopyFrom(last_seen_deploy_time)
        return DeployEvents(
            self._stream(GALAXY_METHODS["WatchDeployEvents"], request, "watch_deploy_events")
        )


def _request(request_type: type[RequestT], known: type[Any], start: str, filters: Any) -> RequestT:
    """Return a request with the filters in it, each checked.

    ``start`` is "root" or "parent": only one of the three fields named so may be given.
    """
    unknown = sorted(filters.keys() - known.__annotations__.keys())
    if unknown:
        raise TypeError(f"{unknown[0]} is no filter: there are {', '.join(known.__annotations__)}")
    starts = [name for name in filters if name.startswith(f"{start}_")]
    if len(starts) > 1:
        raise ValueError(f"give only one of {' and '.join(starts)}")
    fields: dict[str, Any] = {}
    for name, value in filters.items():
        fields[name] = _CHECKS[name](value, name)
    return request_type(**fields)


def _number(value: Any, name: str) -> int:
    return in_range(value, name, 0, 2**31 - 1)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value


def _list_of(check: Any) -> Any:
    def checked(values: Any, name: str) -> list[Any]:
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise TypeError(f"{name} must be a list, got {shown(values)}")
        return [check(value, f"{name}[{index}]") for index, value in enumerate(values)]

    return checked


_CHECKS: dict[str, Any] = {
    "page_size": _number,
    "category_ids": _list_of(_number),
    "template_chain_contains": _list_of(text),
    "tag_name_glob": text,
    "include_attributes": _flag,
    "alarm_bearing_only": _flag,
    "historized_only": _flag,
    "max_depth": lambda value, name: {"value": _number(value, name)},
    "root_gobject_id": _number,
    "root_tag_name": text,
    "root_contained_path": text,
    "parent_gobject_id": _number,
    "parent_tag_name": text,
    "parent_contained_path": text,
}
