"""Applications as their users write them: none knows of a proxy, or is changed for one.

Each tells its client who it is. What they serve with is nobody's here: twisted.web, klein, daphne, autobahn,
twisted.mail and twisted.conch.
"""

from __future__ import annotations
