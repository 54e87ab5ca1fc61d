"""The galaxy of a gateway: its hierarchy to browse, its attributes' types, its deploys."""

import asyncio
import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from google.protobuf.timestamp_pb2 import Timestamp

from mxfast.contract import galaxy_repository as pb
from mxfast.simulator import status
from mxfast.simulator.galaxy_model import Attribute, GalaxyObject
from mxfast.simulator.values import timestamp

DEFAULT_PAGE_SIZE = 500
"""Objects of a page where none is asked for (contract notes, Galaxy repository; inferred)."""

LARGEST_PAGE = 5000
"""Most objects of a page (contract notes, Galaxy repository)."""

# Deploys that wait for one watcher to take them; how many a gateway keeps is not known.
_WAITING_DEPLOYS = 100


class Galaxy:
    """A galaxy. Change it from the event loop that the gateway runs in.

    Parameters
    ----------
    objects : iterable of GalaxyObject
        What is in it, numbered from 1, parents before their children.
    now_ns : callable returning int
        The time, in nanoseconds since 1970 (UTC), of a deploy.

    Attributes
    ----------
    connected : bool
        Whether the gateway reaches the galaxy's database: what TestConnection answers.
    """

    def __init__(self, objects: Iterable[GalaxyObject], now_ns: Callable[[], int]) -> None:
        self.connected = True
        self._now_ns = now_ns
        self._objects = list(objects)
        self._children: dict[int, list[GalaxyObject]] = {}
        for each in self._objects:
            self._children.setdefault(each.parent, []).append(each)
        self._by_tag = {each.tag_name.lower(): each for each in self._objects}
        # Paths of those in another object; the others' are their tag names.
        self._by_path = {
            self._path(each).lower(): each for each in self._objects if each.contained_name
        }
        self._deployed_ns = now_ns()
        self._sequence = 1
        self._watchers: list[asyncio.Queue[pb.DeployEvent]] = []
        self._found: tuple[str, list[GalaxyObject]] = ("", [])

    def __iter__(self) -> Iterator[GalaxyObject]:
        return iter(self._objects)

    # Deploys

    @property
    def watchers(self) -> int:
        """How many streams watch the deploys."""
        return len(self._watchers)

    @property
    def last_deploy(self) -> Timestamp:
        """When the galaxy was deployed last."""
        return timestamp(self._deployed_ns)

    def deploy(self, *, told: bool = True) -> None:
        """Deploy the galaxy: page tokens become stale, and the watchers are told.

        With ``told=False`` they are not: a deploy event that was dropped.
        """
        self._deployed_ns = max(self._now_ns(), self._deployed_ns + 1)
        self._sequence += 1
        if told:
            for watcher in self._watchers:
                with suppress(asyncio.QueueFull):  # the gap in the sequence tells of it
                    watcher.put_nowait(self.present())

    def watch(self) -> asyncio.Queue[pb.DeployEvent]:
        """Return where an event of each deploy comes from now on, until :meth:`unwatch`.

        One that nobody takes is dropped where too many wait already.
        """
        watcher: asyncio.Queue[pb.DeployEvent] = asyncio.Queue(_WAITING_DEPLOYS)
        self._watchers.append(watcher)
        return watcher

    def unwatch(self, watcher: asyncio.Queue[pb.DeployEvent]) -> None:
        """Send no more events there."""
        self._watchers.remove(watcher)

    def present(self) -> pb.DeployEvent:
        """Return the event of the last deploy, as of now."""
        return pb.DeployEvent(
            sequence=self._sequence,
            observed_at=timestamp(self._now_ns()),
            time_of_last_deploy=self.last_deploy,
            time_of_last_deploy_present=True,
            object_count=len(self._objects),
            attribute_count=sum(len(each.template.attributes) for each in self._objects),
        )

    # Attributes

    def attribute(self, reference: str) -> Attribute | None:
        """Return the attribute that a full reference names, or None.

        The reference of an array may end in ``[]``. Case counts (a plant's does not).
        """
        tag_name, _, name = reference.partition(".")
        holder = self._by_tag.get(tag_name.lower())
        if holder is None or holder.tag_name != tag_name:
            return None
        attribute = holder.template.attributes.get(name.removesuffix("[]"))
        if attribute is None or (name.endswith("[]") and not attribute.length):
            return None
        return attribute

    # Browsing

    def discover(self, request: pb.DiscoverHierarchyRequest) -> pb.DiscoverHierarchyReply:
        """Return a page of the hierarchy, parents before their children.

        That a depth of 0 is the root alone, and that attributes come unless they are
        declined, is inferred.

        Raises
        ------
        Refusal
            NOT_FOUND for an unknown root, INVALID_ARGUMENT for a wrong number or a token of
            another request or an earlier deploy.
        """
        depth = request.max_depth.value if request.HasField("max_depth") else len(self._objects)
        if depth < 0:
            raise status.invalid_argument(f"max_depth is {depth}")
        root = self._named(request, "root")
        page, token, total = self._page(self._below(root, depth), request)
        objects = [each.message(with_attributes=_with_attributes(request)) for each in page]
        return pb.DiscoverHierarchyReply(
            objects=objects, next_page_token=token, total_object_count=total
        )

    def browse(self, request: pb.BrowseChildrenRequest) -> pb.BrowseChildrenReply:
        """Return a page of the children of one object, or of the top of the hierarchy.

        Raises
        ------
        Refusal
            As :meth:`discover`.
        """
        parent = self._named(request, "parent")
        children = self._children.get(parent.gobject_id if parent else 0, [])
        page, token, total = self._page(children, request)
        return pb.BrowseChildrenReply(
            children=[each.message(with_attributes=_with_attributes(request)) for each in page],
            next_page_token=token,
            total_child_count=total,
            child_has_children=[each.gobject_id in self._children for each in page],
            cache_sequence=self._sequence,
        )

    def _named(
        self, request: pb.DiscoverHierarchyRequest | pb.BrowseChildrenRequest, role: str
    ) -> GalaxyObject | None:
        """Return the object that a request starts from; None for the whole galaxy."""
        given = request.WhichOneof(role)
        if given is None:
            return None
        wanted = getattr(request, given)
        found: GalaxyObject | None
        if given == f"{role}_gobject_id":
            found = self._objects[wanted - 1] if 0 < wanted <= len(self._objects) else None
        elif given == f"{role}_tag_name":
            found = self._by_tag.get(wanted.lower())
        else:
            found = self._by_path.get(wanted.lower()) or self._by_tag.get(wanted.lower())
            if found is not None and self._path(found).lower() != wanted.lower():
                found = None  # the tag name of one that has a path
        if found is None:
            raise status.object_not_found(str(wanted))
        return found

    def _path(self, each: GalaxyObject) -> str:
        """Return the contained path, such as ``Tank_0003.Inlet``; its form is inferred."""
        names = []
        while each.contained_name:
            names.append(each.contained_name)
            each = self._objects[each.parent - 1]
        return ".".join((each.tag_name, *reversed(names)))

    def _below(self, root: GalaxyObject | None, depth: int) -> Iterator[GalaxyObject]:
        level = [root] if root else self._children.get(0, [])
        while level and depth >= 0:
            yield from level
            level = [child for each in level for child in self._children.get(each.gobject_id, [])]
            depth -= 1

    def _page(
        self,
        candidates: Iterable[GalaxyObject],
        request: pb.DiscoverHierarchyRequest | pb.BrowseChildrenRequest,
    ) -> tuple[list[GalaxyObject], str, int]:
        """Return the page that a request asks for, the next one's token, and how many fit."""
        if request.page_size < 0:
            raise status.invalid_argument(f"page_size is {request.page_size}")
        size = min(request.page_size or DEFAULT_PAGE_SIZE, LARGEST_PAGE)
        bound_to = f"{self._sequence}:{_digest(request)}"
        if self._found[0] != bound_to:  # else this is the next page of the last request
            self._found = (bound_to, [each for each in candidates if _matches(each, request)])
        found = self._found[1]
        start = 0
        if request.page_token:
            token = re.fullmatch(rf"{bound_to}:([0-9]{{1,9}})", request.page_token)
            if token is None or int(token[1]) >= len(found):
                raise status.invalid_argument("the page token is stale or another request's")
            start = int(token[1])
        stop = start + size
        next_token = f"{bound_to}:{stop}" if stop < len(found) else ""
        return found[start:stop], next_token, len(found)


def _matches(
    each: GalaxyObject, request: pb.DiscoverHierarchyRequest | pb.BrowseChildrenRequest
) -> bool:
    template = each.template
    if request.category_ids and template.category not in request.category_ids:
        return False
    wanted = request.template_chain_contains
    if wanted and not set(wanted) & set(template.chain):
        return False
    if request.tag_name_glob and not fnmatch.fnmatch(
        each.tag_name.lower(), request.tag_name_glob.lower()
    ):
        return False
    if request.alarm_bearing_only and not template.has_alarm:
        return False
    return not request.historized_only or template.has_history


def _with_attributes(
    request: pb.DiscoverHierarchyRequest | pb.BrowseChildrenRequest,
) -> bool:
    return request.include_attributes or not request.HasField("include_attributes")


def _digest(request: pb.DiscoverHierarchyRequest | pb.BrowseChildrenRequest) -> str:
    """Return what tells the request's filters from others; pages may differ in size."""
    filters = type(request)()
    filters.MergeFromString(request.SerializeToString())
    filters.ClearField("page_token")
    filters.ClearField("page_size")
    data = type(request).DESCRIPTOR.name.encode() + filters.SerializeToString(deterministic=True)
    return hashlib.sha256(data).hexdigest()[:12]
