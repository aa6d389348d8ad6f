"""The client for asyncio. `lit_client.synchronous` is generated from these files: change only these."""
