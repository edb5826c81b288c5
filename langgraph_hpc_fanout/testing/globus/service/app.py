"""The service's HTTP routes: those that the SDK and the endpoint call.

globus_sdk/services/compute/client.py lists them; which of them the SDK and the endpoint use,
and what they read of a reply, is in globus_compute_sdk/sdk/client.py and `executor.py` and in
globus_compute_endpoint/cli.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson
from aiohttp import web

from langgraph_hpc_fanout.testing.globus.service.faults import Fault
from langgraph_hpc_fanout.testing.globus.service.record import Submit
from langgraph_hpc_fanout.testing.globus.service.service import (
    IDENTITY,
    USERNAME,
    Service,
    ServiceError,
)

_LARGEST_BODY = 2**30
_OPEN = frozenset({"version", "token"})
_RESOURCE_SERVERS = {
    "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all": "funcx_service"
}
_TOKEN_LIFE = 172_800

Answer = Callable[[web.Request], Awaitable[Any]]


def application(service: Service) -> web.Application:
    """The service as an application of aiohttp."""
    app = web.Application(client_max_size=_LARGEST_BODY)
    routes = _Routes(service)
    for method, path, name, answer in routes.table():
        app.router.add_route(method, path, routes.guarded(name, answer))
    return app


class _Routes:
    """One method per route, and what all of them have in common."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def table(self) -> list[tuple[str, str, str, Answer]]:
        """Method, path, name and answer of each route."""
        return [
            ("GET", "/v2/version", "version", self._version),
            ("POST", "/v2/oauth2/token", "token", self._token),
            ("GET", "/v2/oauth2/userinfo", "userinfo", self._userinfo),
            ("POST", "/v3/functions", "functions", self._register_function),
            ("GET", "/v2/functions/{id}", "function", self._function),
            ("DELETE", "/v2/functions/{id}", "function", self._delete_function),
            ("POST", "/v3/endpoints", "register", self._register_endpoint),
            ("PUT", "/v3/endpoints/{id}", "register", self._register_endpoint),
            ("POST", "/v3/endpoints/{id}/submit", "submit", self._submit),
            ("POST", "/v3/endpoints/{id}/lock", "lock", self._nothing),
            ("GET", "/v2/endpoints", "endpoints", self._endpoints),
            ("GET", "/v2/endpoints/{id}", "endpoint", self._endpoint),
            ("DELETE", "/v2/endpoints/{id}", "delete_endpoint", self._nothing),
            ("GET", "/v2/endpoints/{id}/status", "endpoint_status", self._endpoint_status),
            ("GET", "/v2/get_amqp_result_connection_url", "amqp_url", self._amqp_url),
            ("GET", "/v2/tasks/{id}", "task", self._task),
            ("POST", "/v2/batch_status", "batch_status", self._batch_status),
            ("GET", "/v2/taskgroup/{id}", "taskgroup", self._task_group),
        ]

    def guarded(
        self, name: str, answer: Answer
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The route with what all routes share: counts, faults, log-in and errors."""

        async def handle(request: web.Request) -> web.StreamResponse:
            record = self._service.record
            record.requests[name] += 1
            await request.read()  # refused or not: a client that still sends sees no answer
            fault = self._service.faults.on_route(name)
            try:
                self._refuse(name, request, fault)
                reply = _json(200, await answer(request))
            except ServiceError as error:
                reply = _refusal(error)
            if name == "submit":
                await self._note_submit(request, reply, fault)
            record.statuses[reply.status] += 1
            if fault is not None and fault.status is None and request.transport is not None:
                request.transport.abort()
            return reply

        return handle

    def _refuse(self, name: str, request: web.Request, fault: Fault | None) -> None:
        """Raise what keeps the request from taking effect."""
        if fault is not None and fault.status is not None:
            text = f"The test stack was told to answer {fault.status}."
            raise ServiceError(fault.status, "INJECTED", text, retry_after=fault.retry_after)
        if fault is not None and fault.kind == "lost_request":
            raise ServiceError(503, "INJECTED", "Nobody sees this.")
        if name not in _OPEN and "Authorization" not in request.headers:
            raise ServiceError(401, "UNAUTHORIZED", "There is no token in the request.")
        if name == "submit":
            self._check_limits(request)

    def _check_limits(self, request: web.Request) -> None:
        limits, record = self._service.limits, self._service.record
        within = self._service.pace.take(request.headers["Authorization"], limits.window)
        record.most_in_window = max(record.most_in_window, within)
        if limits.rate == "strict" and within > limits.requests:
            text = f"More than {limits.requests} requests in {limits.window:g} s."
            raise ServiceError(429, "TOO_MANY_REQUESTS", text)
        size = request.content_length or 0
        if size > limits.submit_bytes:
            text = f"The request has {size} bytes; at most {limits.submit_bytes} are taken."
            raise ServiceError(413, "PAYLOAD_TOO_LARGE", text)

    async def _note_submit(
        self, request: web.Request, reply: web.Response, fault: Fault | None
    ) -> None:
        body = orjson.loads(await request.read())
        taken = orjson.loads(reply.body) if reply.status == 200 else {}  # type: ignore[arg-type]
        submit = Submit(
            time=time.time(),
            size=request.content_length or 0,
            tasks=sum(map(len, body["tasks"].values())),
            endpoint_id=request.match_info["id"],
            task_group_id=taken.get("task_group_id") or body.get("task_group_id") or "",
            user_endpoint_config=body.get("user_endpoint_config") or {},
            task_ids=tuple(task for ids in taken.get("tasks", {}).values() for task in ids),
            status=reply.status,
            fault=fault.kind if fault else None,
        )
        self._service.record.submits.append(submit)

    async def _version(self, request: web.Request) -> Any:
        return {"api": "1.0.0", "min_ep_version": "1.0.0", "min_sdk_version": "1.0.0"}

    async def _token(self, request: web.Request) -> Any:
        """Tokens for client credentials, one per resource server."""
        form = parse_qs((await request.read()).decode())
        scopes: dict[str, list[str]] = {}
        for scope in form.get("scope", [""])[0].split():
            server = _RESOURCE_SERVERS.get(scope, "auth.globus.org")
            scopes.setdefault(server, []).append(scope)
        tokens = [
            {
                "access_token": f"token-of-{server}",
                "resource_server": server,
                "scope": " ".join(names),
                "expires_in": _TOKEN_LIFE,
                "token_type": "Bearer",
            }
            for server, names in scopes.items()
        ]
        if not tokens:
            raise ServiceError(400, "INVALID_SCOPE", "The request names no scope.")
        return {**tokens[0], "other_tokens": tokens[1:]}

    async def _userinfo(self, request: web.Request) -> Any:
        """Who the token belongs to; a core endpoint serves only its own identities."""
        identity = {"sub": IDENTITY, "username": USERNAME}
        return {"sub": IDENTITY, "preferred_username": USERNAME, "identity_set": [identity]}

    async def _register_function(self, request: web.Request) -> Any:
        return self._service.register_function(await _body(request))

    async def _function(self, request: web.Request) -> Any:
        function = self._service.store.functions.get(request.match_info["id"])
        if function is None:
            raise ServiceError(404, "FUNCTION_NOT_FOUND", "There is no such function.")
        return {**function.data, "function_uuid": function.id}

    async def _delete_function(self, request: web.Request) -> Any:
        self._service.store.functions.pop(request.match_info["id"], None)
        return {"result": 200}

    async def _register_endpoint(self, request: web.Request) -> Any:
        endpoint_id = request.match_info.get("id")
        return await self._service.register_endpoint(await _body(request), endpoint_id)

    async def _submit(self, request: web.Request) -> Any:
        return await self._service.submit(request.match_info["id"], await _body(request))

    async def _endpoints(self, request: web.Request) -> Any:
        return [
            {"uuid": endpoint.id, "name": endpoint.data.get("endpoint_name", "")}
            for endpoint in self._service.store.endpoints.values()
            if endpoint.parent is None
        ]

    async def _endpoint(self, request: web.Request) -> Any:
        endpoint = self._service.endpoint(request.match_info["id"])
        return {**endpoint.data, "uuid": endpoint.id}

    async def _endpoint_status(self, request: web.Request) -> Any:
        return self._service.endpoint_status(request.match_info["id"])

    async def _amqp_url(self, request: web.Request) -> Any:
        return self._service.amqp_url()

    async def _task(self, request: web.Request) -> Any:
        return self._service.task(request.match_info["id"])

    async def _batch_status(self, request: web.Request) -> Any:
        ids = (await _body(request))["task_ids"]
        return {"response": "batch", "results": {one: self._service.task(one) for one in ids}}

    async def _task_group(self, request: web.Request) -> Any:
        return self._service.task_group(request.match_info["id"])

    async def _nothing(self, request: web.Request) -> Any:
        """What a stopping endpoint asks for; nothing here depends on it."""
        return {"result": 200}


async def _body(request: web.Request) -> Mapping[str, Any]:
    data: Mapping[str, Any] = orjson.loads(await request.read())
    return data


def _json(status: int, data: Any) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(data), headers={"Content-Type": "application/json"}
    )


def _refusal(error: ServiceError) -> web.Response:
    """`code` and `message` are what globus_sdk/exc/api.py looks for."""
    message = str(error)
    reply = _json(
        error.status,
        {"status": "Failed", "code": error.code, "message": message, "reason": message},
    )
    if error.retry_after is not None:
        reply.headers["Retry-After"] = f"{error.retry_after:g}"
    return reply
