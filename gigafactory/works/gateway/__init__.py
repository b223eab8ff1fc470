"""The door for clients: OpenAI's protocol in front, engines behind, every request in the ledger.

A request passes `door` (key, limits), `ask` (what it wants), `lanes` (whose turn it is) and
`exchange` (reserve, answer, settle); `engine` talks to the engines, `rows` to the ledger.
"""

from gigafactory.works.gateway.door import Gateway
from gigafactory.works.gateway.rows import disputes

__all__ = ["Gateway", "disputes"]
