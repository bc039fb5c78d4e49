"""Notifies about a run that published nothing: the deployment `notify/on-rejected`, started by its trigger.

It writes to the log and, if one is named, to a Prefect notification block: Slack, e-mail, a webhook and more, created
in the Prefect interface under Blocks. Called by Prefect alone.
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
    """Report that a run published nothing.

    Args:
        id: The id of the run.
        run: The name of the run.
        state: The final state of the run: Rejected, Failed or Crashed.
        why: The message of the state.
        block: A notification block by type and name ("slack-webhook/ops"); empty: only the log.

    Raises:
        UsageError: The block cannot be loaded, or is not a notification block.
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
        raise UsageError(f"cannot notify through {block!r}", "it is not a notification block", "Name one that is.")
    with channel.raise_on_failure():
        cast(Any, channel).notify(f"{why}\n{address}", subject)
