"""What a server program needs of its process: signals, worker processes, listening sockets, exit statuses."""

from __future__ import annotations
