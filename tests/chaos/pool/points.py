"""The steps of a task's life at which its client, coordinator, agent or worker is killed or frozen."""

from __future__ import annotations

from tests.chaos.faults.failpoints import Point

SENT = "nearfar.coordinator.connection:CoordinatorConnection.send"
TOLD = "nearfar.coordinator.server:CoordinatorServer._send"

OF_CLIENT = {
    "client-hello": Point(SENT, kind="HELLO"),
    "submitted": Point("nearfar.pool.far_client:FarClient.submit_all"),
    "submitting": Point(SENT, "before", "SUBMIT"),
    "submit-sent": Point(SENT, kind="SUBMIT"),
    "outcome-heard": Point("nearfar.pool.far_client:InFlightTasks.settle"),
    "client-bye": Point(SENT, kind="BYE"),
}
OF_COORDINATOR = {
    "welcome-sent": Point(TOLD, kind="WELCOME"),
    "submit-heard": Point("nearfar.coordinator.remote_clients:RemoteClients.submit"),
    "given": Point("nearfar.coordinator.agents:AgentSession.give"),
    "work-sent": Point(TOLD, kind="WORK"),
    "answers-heard": Point("nearfar.coordinator.agents:Agents.answers", "before"),
    "answers-noted": Point("nearfar.coordinator.agents:Agents.answers"),
    "outcome-told": Point(TOLD, kind="OUTCOMES"),
    "release-sent": Point(TOLD, kind="RELEASE"),
    "worker-came": Point("nearfar.coordinator.agents:Agents.came"),
    "worker-died": Point("nearfar.coordinator.agents:Agents.died"),
    "departed": Point("nearfar.coordinator.remote_clients:RemoteClients.depart"),
}
OF_AGENT = {
    "agent-hello": Point(SENT, kind="HELLO"),
    "came-sent": Point(SENT, kind="CAME"),
    "work-heard": Point("nearfar.worker.agent_protocol:AgentProtocol._handle_work"),
    "work-given": Point("nearfar.worker.agent:Agent._assign"),
    "answered": Point("nearfar.worker.agent_protocol:AgentProtocol.answered"),
    "answers-sent": Point(SENT, kind="ANSWERS"),
    "released": Point("nearfar.worker.agent_protocol:AgentProtocol._handle", kind="RELEASE"),
    "kept-sent": Point(SENT, kind="KEPT"),
    "death-seen": Point("nearfar.worker.agent_protocol:AgentProtocol.died"),
}
OF_WORKER = {
    "begun": Point("nearfar.worker.main:TaskRunner._one", "before"),
    "ran": Point("nearfar.worker.main:TaskRunner._one"),
    "answering": Point("nearfar.worker.channel:ChannelEnd.send_packed", "before"),
    "answer-sent": Point("nearfar.worker.channel:ChannelEnd.send_packed"),
}
POINTS = OF_CLIENT | OF_COORDINATOR | OF_AGENT | OF_WORKER
