"""The loop schedule -> execute -> process, and its bridge to asyncio."""
