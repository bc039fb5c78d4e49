"""Parameters of a deployed run that the server must not keep. Called by the flow.

The server refuses an address with a password in a form and in a deployment, but not in the parameters of a schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

from prefect.context import FlowRunContext

from tasks.running.liveness import as_signed
from tasks.settings import Data, require_plain

P = ParamSpec("P")
T = TypeVar("T")


def keeps_no_secret(function: Callable[P, T]) -> Callable[P, T]:
    """The function of a flow, which refuses data at an address with a password that the server has stored.

    Raises:
        UsageError: It was started by a deployment, and an address has a password or a signature.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        data = signature(function).bind(*args, **kwargs).arguments.get("data", Data())
        context = FlowRunContext.get()
        if context and context.flow_run and context.flow_run.deployment_id:
            require_plain("the stored parameter", [data.source, *data.mirror])
        return function(*args, **kwargs)

    return as_signed(checked)
