"""Channels: who listens to them, and how messages travel."""
