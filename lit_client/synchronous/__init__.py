"""The client without asyncio."""

# Generated from lit_client/asynchronous by `python -m tests.lit_client.generate`: change the source instead.
