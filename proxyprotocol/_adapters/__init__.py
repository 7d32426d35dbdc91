"""What several adapters need: facts about sockets, deadlines, the log line of a refusal."""

from __future__ import annotations
