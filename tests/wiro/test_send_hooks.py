"""The last moments in which a Run can be held back, on real connections: no whole one reaches the server."""

from __future__ import annotations

import json

import pytest
from anyio.abc import SocketStream
from connections import Server, serving
from pydantic import SecretStr

from wan_async import errors
from wan_async.http.transport import StackTransport
from wan_async.wiro.api import Api
from wan_async.wiro.bodies import InlineImage

pytestmark = pytest.mark.anyio
ACCEPTED = json.dumps({"result": True, "errors": [], "taskid": "1", "socketaccesstoken": "t"}).encode()
FORM = {"prompt": "rain"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def accepts(server: Server, stream: SocketStream) -> None:
    """Answers any number of requests on a connection, which a proxy may have sent."""
    while True:
        await server.request(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(ACCEPTED), ACCEPTED))


def api_of(server: Server, proxy: str | None) -> Api:
    url = "http://127.0.0.1:9/v1" if proxy else f"{server.url}v1"
    return Api(SecretStr("k"), SecretStr("s"), base_url=url, transport=StackTransport(proxy=proxy))


@pytest.mark.parametrize("through_proxy", [False, True])
@pytest.mark.parametrize("is_reused", [False, True])
async def test_a_run_that_is_held_back_does_not_reach_the_server(through_proxy: bool, is_reused: bool) -> None:
    async with serving(accepts) as server, api_of(server, server.url if through_proxy else None) as api:
        if is_reused:
            await api.run(FORM)
        before = len(server.requests)
        api.may_run = lambda: False
        with pytest.raises(errors.TryLater) as caught:
            await api.run(FORM)
        assert not caught.value.sent
        assert (len(server.requests), server.connections) == (before, 1)
        api.may_run = lambda: True
        assert (await api.run(FORM)).accepted.task_id == "1"
        assert len(server.requests) == before + 1


@pytest.mark.parametrize("is_reused", [False, True])
async def test_a_run_is_held_back_between_its_head_and_its_body(is_reused: bool) -> None:
    """Regression: a worker that was suspended there paid for a job that another one had taken over."""
    async with serving(accepts) as server, api_of(server, None) as api:
        if is_reused:
            await api.run(FORM)
        before = len(server.requests)
        answers = iter([True, False])
        api.may_run = lambda: next(answers)
        with pytest.raises(errors.TryLater) as caught:
            await api.run(FORM)
        assert not caught.value.sent
        assert len(server.requests) == before


async def test_a_run_that_is_held_back_within_its_image_is_ambiguous() -> None:
    """Something of its body left: the task list tells whether a task came of it."""
    async with serving(accepts) as server, api_of(server, None) as api:
        asked = list[int]()

        def may_run() -> bool:
            asked.append(len(asked))
            return len(asked) < 4

        api.may_run = may_run
        with pytest.raises(errors.Ambiguous):
            await api.run(FORM, image=InlineImage(bytes(300_000), "image/png"))
        assert server.requests == []
