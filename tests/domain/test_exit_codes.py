"""The precedence of exit codes."""

from __future__ import annotations

from wan_async import errors
from wan_async.domain.exit_codes import ExitCode


def test_the_order_of_precedence_is_that_of_the_design() -> None:
    assert [int(code) for code in ExitCode] == [2, 4, 130, 143, 129, 3, 7, 6, 5, 1, 0]


def test_the_first_applicable_code_is_used_and_none_means_success() -> None:
    assert ExitCode.first_of([ExitCode(1), ExitCode(5), ExitCode(6)]) is ExitCode.ENVIRONMENT
    assert ExitCode.first_of([ExitCode(1), ExitCode(143), ExitCode(3)]) is ExitCode.TERMINATED
    assert ExitCode.first_of([]) is ExitCode.SUCCESS


def test_the_legend_names_every_code_once_and_groups_equal_meanings() -> None:
    legend = ExitCode.legend()
    assert legend.startswith("2 usage")
    assert "130/143/129 interrupted" in legend
    for code in ExitCode:
        assert code.description in legend


def test_an_error_names_its_code() -> None:
    assert ExitCode.of_error(errors.InvalidBatch([])) == 2
    assert ExitCode.of_error(errors.StopBatch("no", authentication=True)) == 4
    assert ExitCode.of_error(errors.StopBatch("no"), otherwise=ExitCode.ENVIRONMENT) == 1
    assert ExitCode.of_error(errors.Unusable("disk")) == 6
    assert ExitCode.of_error(errors.Locked("held")) == 7
    assert ExitCode.of_error(errors.OutOfFunds("97")) == 1
    assert ExitCode.of_error(errors.OutOfFunds("97"), otherwise=ExitCode.ENVIRONMENT) == 6
