"""The broker: its queues, and the messages that say that there is work."""
