"""What is reserved for a task, and what is learned of the price."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from wan_async import errors
from wan_async.domain.attempt import Attempt
from wan_async.domain.batch import Enlisted
from wan_async.domain.events import PriceGroup
from wan_async.domain.job import parameters_of
from wan_async.domain.model import Parameters
from wan_async.domain.money import usd
from wan_async.domain.prices import Tool
from wan_async.engine.leases import Wake
from wan_async.journal.base import Journal
from wan_async.wiro.api import Api


class Prices:
    """The price of a task, by the service's rules and by what such tasks have cost.

    Args:
        api: the client of the service.
        journal: knows the dearest task of each kind so far; None if there is none yet.
        render_seconds: how long a render takes at most, as far as this run knows; None if it does not.
        wake: is set whenever a cost is settled, since that may free a part of the budget.
    """

    def __init__(
        self, api: Api, journal: Journal | None, render_seconds: Callable[[], float | None], wake: Wake
    ) -> None:
        self._api = api
        self._journal = journal
        self._render_seconds = render_seconds
        self._wake = wake
        self._tool = Tool()
        self._dearest: dict[tuple[str, ...], int] = {}

    async def learn(self) -> None:
        """Asks the service for its prices, and the journal for what tasks have cost.

        Raises:
            errors.StopBatch: there is no such model.
        """
        try:
            self._tool = await self._api.tool()
        except errors.NotFound as error:
            raise errors.StopBatch(f"the model is not available: {error.message}") from None
        self._dearest = await self._journal.dearest(self._api.model.price_fields) if self._journal is not None else {}

    def price(self, parameters: Parameters) -> int | None:
        """Micro-dollars to reserve for a task: the larger of the estimate and the dearest such task so far."""
        estimate = self._tool.estimate(parameters, self._render_seconds())
        dearest = self._dearest.get(self._kind(parameters))
        return max((cost for cost in (estimate, dearest) if cost is not None), default=None)

    def of(self, job: Enlisted) -> int | None:
        """Micro-dollars to reserve for a job that is still to be submitted."""
        return self.price(parameters_of(job.planned.job, ""))

    def expected(self, job: Enlisted) -> int | None:
        """What a job will cost, in micro-dollars: a fixed price is exact, also where such tasks cost more before."""
        fixed = self._tool.fixed(parameters_of(job.planned.job, ""))
        return self.of(job) if fixed is None else fixed

    def groups(self, jobs: Iterable[Enlisted], unsettled: Iterable[Attempt]) -> tuple[PriceGroup, ...]:
        """Jobs to submit, and attempts of earlier runs whose cost is not settled, by price."""
        group_of = self._api.model.price_group
        prices: dict[str, list[int | None]] = {}
        for job in jobs:
            prices.setdefault(group_of(parameters_of(job.planned.job, "")), []).append(self.expected(job))
        reserved: dict[str, list[int]] = {}
        for attempt in unsettled:
            reserved.setdefault(group_of(attempt.form), []).append(attempt.reserved)
        return tuple(
            PriceGroup(
                name=name,
                to_do=len(prices.get(name, ())),
                price_usd=None if (price := next(iter(prices.get(name, ())), None)) is None else usd(price),
                unsettled=len(reserved.get(name, ())),
                unsettled_usd=usd(sum(reserved.get(name, ()))),
            )
            for name in dict.fromkeys((*prices, *reserved))
        )

    def settled(self, attempt: Attempt) -> None:
        """The cost of a task is known."""
        if attempt.cost:
            kind = self._kind(attempt.form)
            self._dearest[kind] = max(self._dearest.get(kind, 0), attempt.cost)
        self._wake.set()

    def _kind(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        """The values of the parameters that a price may depend on."""
        return tuple(parameters.get(field, "") for field in self._api.model.price_fields)
