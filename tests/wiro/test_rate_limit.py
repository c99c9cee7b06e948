"""What the client of the API does where the service answers 429."""

from __future__ import annotations

import anyio
import httpx
import pytest
from pydantic import SecretStr

from wan_async import errors
from wan_async.domain.remote_task import TaskId
from wan_async.wiro.api import Api


@pytest.mark.virtual_time
async def test_a_pause_of_all_requests_is_reported_once_and_one_of_another_process_is_kept() -> None:
    status = 429

    async def answer(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.1)
        headers = {"retry-after": "20"} if status == 429 else {}
        return httpx.Response(status, json={"result": True, "tasklist": [{"id": "1"}]}, headers=headers)

    async def refused(api: Api) -> None:
        with pytest.raises(errors.TryLater):
            await api.detail(TaskId("1"), tries=1)

    paused: list[float] = []
    transport = httpx.MockTransport(answer)
    async with Api(SecretStr("k"), None, base_url="http://127.0.0.1:9/v1", transport=transport) as api:
        api.rate_limit.on_pause = paused.append
        async with anyio.create_task_group() as group:
            for _ in range(8):  # the first three are little evidence about the other requests
                group.start_soon(refused, api)
        assert paused == [20.0]
        status = 200
        await anyio.sleep(100.0)
        api.rate_limit.slow_down(anyio.current_time(), 30.0)
        before = anyio.current_time()
        await api.detail(TaskId("1"), tries=1)
        assert 30.0 <= anyio.current_time() - before < 33.0
        assert paused == [20.0]
