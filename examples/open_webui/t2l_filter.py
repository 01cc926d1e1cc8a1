"""
title: t2l
description: Keeps one adapter for each chat, and lets a model or a user name the task.
requirements:
"""

# Paste this in Open WebUI under Admin Panel > Functions, and switch it on for t2l's models.
# The lines above are Open WebUI's; the file depends on nothing but pydantic.

from typing import Any

from pydantic import BaseModel, Field


class Filter:
    """An Open WebUI filter: adds t2l's fields to each request."""

    class Valves(BaseModel):
        """What the administrator sets."""

        description: str = Field("", description="The task of all chats; empty: inferred.")

    class UserValves(BaseModel):
        """What each user sets."""

        description: str = Field("", description="The task of my chats.")

    def __init__(self) -> None:
        self.valves = self.Valves()

    def inlet(
        self,
        body: dict[str, Any],
        __metadata__: dict[str, Any] | None = None,
        __user__: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Name the session, and the task if somebody set one."""
        chat = (__metadata__ or {}).get("chat_id")
        if chat:
            body["t2l_session"] = chat
        own = getattr((__user__ or {}).get("valves"), "description", "")
        description = own or self.valves.description
        if description:
            body["t2l_description"] = description
        return body
