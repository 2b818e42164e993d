"""The stand-in for the W&B server, with what workspaces, reports, custom charts and sweeps ask of it."""

from __future__ import annotations

import json

from fake_wandb import FakeWandb


class FakeWorkspaces(FakeWandb):
    """Keeps views and custom charts as they were sent."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.views: list[dict] = []
        self.charts: dict[str, dict] = {}

    def view(self, kind):
        """The one view of a kind, its specification parsed."""
        (found,) = (view for view in self.views if view["type"] == kind)
        return json.loads(found["spec"])

    def op_upsert_view2(self, v):
        self.views.append(v)
        return {"upsertView": {"view": {"id": f"view{len(self.views)}", "name": v["name"]}, "inserted": True}}

    def op_upsert_view(self, v):
        self.views.append(v)
        view = {
            "id": f"view{len(self.views)}",
            "type": v["type"],
            "name": v["name"],
            "displayName": v["displayName"],
            "description": v["description"],
            "project": {"id": "p", "name": v["projectName"], "entityName": v["entityName"]},
            "spec": v["spec"],
            "updatedAt": "2026-01-01T00:00:00",
        }
        return {"upsertView": {"view": view, "inserted": True}}

    def op_create_custom_chart(self, v):
        self.charts[v["chartName"]] = json.loads(v["spec"])
        return {"createCustomChart": {"chart": {"id": f"{v['entity']}/{v['chartName']}"}}}

    def op_project_internal_id(self, v):
        return {"project": {"id": "p", "internalId": "1"}}

    def op_get_projects(self, v):
        names = sorted({run.project for run in self.runs.values()})
        project = {"__typename": "Project", "entityName": v["entity"], "createdAt": "2026-01-01T00:00:00"}
        nodes = [{**project, "id": name, "name": name, "isBenchmark": False, "user": None} for name in names]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node} for node in nodes]}}


class FakeSweep(FakeWandb):
    """Hands the settings of a sweep to its agent one after the other, then sends it home.

    Args:
        settings: Of each run, by parameter.
    """

    def __init__(self, settings):
        super().__init__()
        self.config = ""
        self.waiting = [
            {"type": "run", "run_id": f"run{n}", "args": {k: {"value": v} for k, v in values.items()}}
            for n, values in enumerate(settings)
        ]

    def op_upsert_sweep(self, v):
        self.config = v["config"]
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": None}, "configValidationWarnings": []}}

    def op_create_agent(self, v):
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def op_heartbeat(self, v):
        busy = json.loads(v["runState"] or "{}")
        commands = [] if busy else [self.waiting.pop(0) if self.waiting else {"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}
