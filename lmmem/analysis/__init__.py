"""From tables to intervals and figures.

Knows neither models nor data: it works without torch, and imports no other room.
"""
