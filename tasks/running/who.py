"""Who runs this: kept with what a person decides. Imports Prefect only if a flow may be running."""

from __future__ import annotations

import json
import os
import platform
import pwd
import sys

# The variables by which a CI system, or else a shell, names its user.
CLAIMS = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "LOGNAME", "USER")
LONGEST_CLAIM = 100


def who() -> str:
    """Who runs this: the system's user of the command, or of the worker that runs a deployment.

    Variables only claim a name, and anybody may set them: `alice (claims "the CEO") on host`. Of a run that was started
    elsewhere, Prefect Cloud also knows who started it.
    """
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # the user of a container may have no name
        user = f"uid {os.getuid()}"
    claims = [value for name in CLAIMS if (value := os.environ.get(name)) and value != user]
    claimed = f" (claims {json.dumps(claims[0][:LONGEST_CLAIM])})" if claims else ""
    creator = None
    if "prefect" in sys.modules:  # the import takes seconds, and a command without it runs no flow
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        creator = context.flow_run.created_by if context and context.flow_run else None
    started = (
        f", started by {json.dumps(creator.display_value)} in Prefect" if creator and creator.display_value else ""
    )
    return f"{user}{claimed} on {platform.node()}{started}"
