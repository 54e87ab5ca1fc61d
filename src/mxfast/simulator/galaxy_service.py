"""The GalaxyRepository service."""

from mxfast.contract import galaxy_repository as pb
from mxfast.simulator.access import Access
from mxfast.simulator.clock import Clock
from mxfast.simulator.fault_control import Faults
from mxfast.simulator.galaxy import Galaxy
from mxfast.simulator.service import Context, Scopes, Service

SERVICE = pb.DESCRIPTOR.services_by_name["GalaxyRepository"]


class GalaxyService(Service):
    """The GalaxyRepository service. Its methods have the names of the RPCs."""

    def __init__(self, galaxy: Galaxy, access: Access, faults: Faults, clock: Clock) -> None:
        super().__init__(SERVICE, access, faults, clock)
        self._galaxy = galaxy

    async def TestConnection(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Tell whether the database is there; never fails (contract notes)."""
        pb.TestConnectionRequest.FromString(data)
        return pb.TestConnectionReply(ok=self._galaxy.connected).SerializeToString()

    async def GetLastDeployTime(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Tell when the galaxy was deployed last."""
        pb.GetLastDeployTimeRequest.FromString(data)
        reply = pb.GetLastDeployTimeReply(
            present=True, time_of_last_deploy=self._galaxy.last_deploy
        )
        return reply.SerializeToString()

    async def DiscoverHierarchy(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Return a page of the hierarchy."""
        request = pb.DiscoverHierarchyRequest.FromString(data)
        return self._galaxy.discover(request).SerializeToString()

    async def BrowseChildren(self, data: bytes, scopes: Scopes, context: Context) -> bytes:
        """Return a page of an object's children."""
        request = pb.BrowseChildrenRequest.FromString(data)
        return self._galaxy.browse(request).SerializeToString()

    async def WatchDeployEvents(self, data: bytes, scopes: Scopes, context: Context) -> None:
        """Stream the present state, then an event a deploy.

        A client that names the last deploy is not told of it again (inferred).
        """
        request = pb.WatchDeployEventsRequest.FromString(data)
        watcher = self._galaxy.watch()
        try:
            seen = request.HasField("last_seen_deploy_time")
            if not seen or request.last_seen_deploy_time != self._galaxy.last_deploy:
                await context.write(self._galaxy.present().SerializeToString())
            while True:
                event = await watcher.get()
                await context.write(event.SerializeToString())
        finally:
            self._galaxy.unwatch(watcher)
