"""Automations on a Prefect server, by their names, which it does not keep unique. Called by the set-up."""

from __future__ import annotations

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore


def upsert(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create or update the automation of this name, and delete duplicates. One that was paused stays paused."""
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(automation)
        return
    first, *duplicates = existing
    wanted = automation.model_copy(update={"enabled": first.enabled})
    # An update makes the server forget the last event of each run, so skip one that changes nothing.
    if AutomationCore.model_validate(first.model_dump()) != wanted:
        client.update_automation(first.id, wanted)
    for duplicate in duplicates:
        client.delete_automation(duplicate.id)


def remove(client: SyncPrefectClient, name: str) -> None:
    """Delete the automations of this name."""
    for automation in client.read_automations_by_name(name):
        client.delete_automation(automation.id)
