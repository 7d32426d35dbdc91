"""Applications as users write them, without any code for a proxy.

Each sends its clients their own address. They use the servers of other projects: twisted.web, klein, daphne, autobahn,
twisted.mail, twisted.conch, and many for asyncio.
"""

from __future__ import annotations
