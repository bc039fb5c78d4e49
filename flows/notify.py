"""Tells people of a retraining that published nothing: the deployment `notify/on-rejected`, started by its trigger.

To the log, and to a Prefect notification block where one is named: Slack, e-mail, a webhook and more, set up in the
Prefect interface under Blocks.
"""

from __future__ import annotations

from typing import Any, cast

from prefect import flow, get_run_logger
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.utilities.urls import url_for

from tasks.errors import UsageError


@flow(name="notify", flow_run_name="{state}: {run}")
def notify(id: str, run: str, state: str, why: str, block: str = "") -> None:
    """Tell that a run published nothing.

    Args:
        id: The run.
        run: Its name.
        state: How it ended: Rejected, Failed or Crashed.
        why: The state's message.
        block: A notification block, by type and name ("slack-webhook/ops"); none: only the log.
    """
    subject, address = f"retrain {state}: {run}", url_for("flow-run", obj_id=id) or id
    get_run_logger().warning("%s. %s %s", subject, why, address)
    if not block:
        return
    try:
        channel = Block.load(block)
    except ValueError as error:
        raise UsageError(
            f"cannot load the notification block {block!r}", str(error), "Create it in the Prefect interface, Blocks."
        ) from error
    if not isinstance(channel, NotificationBlock):
        raise UsageError(f"cannot notify through {block!r}", "it is no notification block", "Name one that is.")
    with channel.raise_on_failure():
        cast(Any, channel).notify(f"{why}\n{address}", subject)
