"""Alarms, which need no session, over real gRPC."""

import asyncio
from typing import Any

import pytest

from mxfast import (
    GatewayClient,
    MalformedReplyError,
    MxAccessError,
    MxGatewayAuthorizationError,
    MxGatewayCommandError,
    MxGatewayError,
    from_mx_value,
)
from mxfast.contract import mxaccess_gateway as pb
from mxfast.simulator import SimulatedGateway
from mxfast.streams import MessageIterator
from tests.conftest import Context, ScriptedGateway, ok

HI, LO, PUMP = "Tank1.Level.Hi", "Tank1.Level.Lo", "Pump1.Run.Fault"


async def references(snapshots: MessageIterator[pb.ActiveAlarmSnapshot]) -> list[str]:
    return [each.alarm_full_reference async for each in snapshots]


async def take(feed: MessageIterator[pb.AlarmFeedMessage], count: int) -> list[pb.AlarmFeedMessage]:
    return [await anext(feed) for _ in range(count)]


def kinds(messages: list[pb.AlarmFeedMessage]) -> list[str | None]:
    return [message.WhichOneof("payload") for message in messages]


async def test_stream_alarms_tells_snapshot_complete_and_transitions(
    gateway: SimulatedGateway, client: GatewayClient
) -> None:
    gateway.alarms.raise_alarm(
        HI, severity=700, alarm_type="Hi", description="too full", value=9.5, limit=9.0
    )
    async with client.stream_alarms() as feed:
        active, complete = await take(feed, 2)
        assert active.active_alarm.alarm_full_reference == HI
        assert active.active_alarm.source_object_reference == "Tank1"
        assert active.active_alarm.severity == 700
        assert active.active_alarm.alarm_type_name == "Hi"
        assert active.active_alarm.current_state == pb.ALARM_CONDITION_STATE_ACTIVE
        assert from_mx_value(active.active_alarm.current_value) == 9.5
        assert from_mx_value(active.active_alarm.limit_value) == 9.0
        assert complete.snapshot_complete

        gateway.alarms.raise_alarm(PUMP)
        gateway.alarms.raise_alarm(HI, severity=800)
        await client.acknowledge_alarm(HI, comment="seen", operator_user="ann")
        gateway.alarms.set_provider(
            pb.ALARM_PROVIDER_MODE_SUBTAG, degraded=True, reason="no alarm manager"
        )
        gateway.alarms.clear_alarm(PUMP)
        changes = await take(feed, 5)
    assert kinds(changes) == ["transition"] * 3 + ["provider_status", "transition"]
    raised, again, acknowledged, cleared = (
        each.transition for each in changes if each.HasField("transition")
    )
    assert raised.transition_kind == pb.ALARM_TRANSITION_KIND_RAISE
    assert again.transition_kind == pb.ALARM_TRANSITION_KIND_RETRIGGER
    assert again.severity == 800
    assert again.original_raise_timestamp == active.active_alarm.original_raise_timestamp
    assert acknowledged.transition_kind == pb.ALARM_TRANSITION_KIND_ACKNOWLEDGE
    assert (acknowledged.operator_user, acknowledged.operator_comment) == ("ann", "seen")
    assert cleared.transition_kind == pb.ALARM_TRANSITION_KIND_CLEAR
    assert cleared.alarm_full_reference == PUMP
    status = changes[3].provider_status
    assert status.mode == pb.ALARM_PROVIDER_MODE_SUBTAG
    assert status.degraded
    assert status.reason == "no alarm manager"


async def test_alarms_of_a_prefix(gateway: SimulatedGateway, client: GatewayClient) -> None:
    for reference in (HI, LO, PUMP):
        gateway.alarms.raise_alarm(reference)
    assert await references(client.query_active_alarms()) == [HI, LO, PUMP]
    assert await references(client.query_active_alarms("Tank1.")) == [HI, LO]
    assert await references(client.query_active_alarms(alarm_filter_prefix="Nothing")) == []
    request = pb.QueryActiveAlarmsRequest(alarm_filter_prefix="Pump")
    assert await references(client.query_active_alarms(request)) == [PUMP]
    async with client.stream_alarms("Pump") as feed:
        assert kinds(await take(feed, 2)) == ["active_alarm", "snapshot_complete"]
        gateway.alarms.clear_alarm(HI)
        gateway.alarms.clear_alarm(PUMP)
        assert (await anext(feed)).transition.alarm_full_reference == PUMP
    assert await references(client.query_active_alarms()) == [LO]
    async with client.stream_alarms(pb.StreamAlarmsRequest(alarm_filter_prefix="Tank")) as feed:
        assert (await anext(feed)).active_alarm.alarm_full_reference == LO


async def test_an_acknowledged_alarm_stays_active(
    gateway: SimulatedGateway, client: GatewayClient
) -> None:
    gateway.alarms.raise_alarm(HI)
    reply = await client.acknowledge_alarm(
        pb.AcknowledgeAlarmRequest(alarm_full_reference=HI, client_correlation_id="mine")
    )
    assert reply.correlation_id == "mine"
    (alarm,) = [each async for each in client.query_active_alarms()]
    assert alarm.current_state == pb.ALARM_CONDITION_STATE_ACTIVE_ACKED
    with pytest.raises(TypeError, match="comment and operator_user go into"):
        await client.acknowledge_alarm(pb.AcknowledgeAlarmRequest(), comment="seen")


async def test_acknowledging_what_is_not_active(client: GatewayClient) -> None:
    with pytest.raises(MxAccessError, match=r"acknowledge_alarm: Tank1\.Level\.Hi; .*1003") as e:
        await client.acknowledge_alarm(HI)
    assert isinstance(e.value.reply, pb.AcknowledgeAlarmReply)


async def test_every_stream_of_alarms_hears_a_change(
    gateway: SimulatedGateway, client: GatewayClient
) -> None:
    feeds = [client.stream_alarms() for _ in range(3)]
    for feed in feeds:
        assert (await anext(feed)).snapshot_complete
    gateway.alarms.raise_alarm(HI)
    for feed in feeds:
        assert (await anext(feed)).transition.alarm_full_reference == HI
        await feed.aclose()


@pytest.mark.parametrize(
    ("scope", "operation"),
    [
        ("events:read", "stream_alarms"),
        ("events:read", "query_active_alarms"),
        ("invoke:write", "acknowledge_alarm"),
    ],
)
async def test_alarms_need_their_scope(scope: str, operation: str) -> None:
    keys = {"mxgw_other_0": ["session:open", "metadata:read"], "mxgw_right_0": [scope]}
    async with SimulatedGateway(api_keys=keys) as gateway:
        gateway.alarms.raise_alarm(HI)
        for key in keys:
            async with await GatewayClient.connect(
                endpoint=gateway.endpoint, api_key=key, plaintext=True
            ) as client:
                if key == "mxgw_right_0":
                    await start(client, operation)
                    continue
                with pytest.raises(MxGatewayAuthorizationError, match=scope):
                    await start(client, operation)


async def start(client: GatewayClient, operation: str) -> None:
    if operation == "acknowledge_alarm":
        await client.acknowledge_alarm(HI)
    else:
        stream = getattr(client, operation)()
        await anext(stream)
        await stream.aclose()


async def test_a_reader_too_slow_for_the_alarms_is_cut_off(gateway: SimulatedGateway) -> None:
    async with (
        SimulatedGateway(event_queue_capacity=2) as small,
        await GatewayClient.connect(
            endpoint=small.endpoint, api_key=small.api_key, plaintext=True
        ) as client,
    ):
        feed = client.stream_alarms()
        await anext(feed)
        for _ in range(10):
            small.alarms.raise_alarm(HI)
        with pytest.raises(MxGatewayCommandError, match="RESOURCE_EXHAUSTED"):
            async for _ in feed:
                pass


def test_alarms_are_there_only_while_the_gateway_runs() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = SimulatedGateway().alarms


@pytest.mark.parametrize("wrong", [None, 5, b"Tank"])
async def test_wrong_arguments(client: GatewayClient, wrong: Any) -> None:
    for call in (client.stream_alarms, client.query_active_alarms):
        with pytest.raises(TypeError, match="alarm_filter_prefix"):
            call(wrong)
    with pytest.raises(TypeError, match="alarm_full_reference"):
        await client.acknowledge_alarm(wrong)
    with pytest.raises(TypeError, match="comment"):
        await client.acknowledge_alarm(HI, comment=wrong)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (pb.AcknowledgeAlarmReply(), MalformedReplyError),
        (pb.AcknowledgeAlarmReply(protocol_status=ok(), hresult=-1), MxAccessError),
        (
            pb.AcknowledgeAlarmReply(
                protocol_status=ok(),
                status=pb.MxStatusProxy(category=pb.MX_STATUS_CATEGORY_SECURITY_ERROR),
            ),
            MxAccessError,
        ),
        (pb.AcknowledgeAlarmReply(protocol_status=ok()), None),
    ],
)
async def test_what_an_acknowledgement_is_answered_with(
    scripted: ScriptedGateway, reply: pb.AcknowledgeAlarmReply, error: type[MxGatewayError] | None
) -> None:
    async def answer(request: bytes, context: Context) -> bytes:
        return reply.SerializeToString()

    scripted.unary["AcknowledgeAlarm"] = answer
    async with await scripted.connect() as client:
        if error is None:
            assert await client.acknowledge_alarm(HI) == reply
        else:
            with pytest.raises(error):
                await client.acknowledge_alarm(HI)


async def test_leaving_the_stream_of_alarms_detaches_it(
    gateway: SimulatedGateway, client: GatewayClient
) -> None:
    feed = client.stream_alarms()
    await anext(feed)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(feed)
    while gateway.alarms.subscribers:  # noqa: ASYNC110 - nobody else is told
        await asyncio.sleep(0.001)
