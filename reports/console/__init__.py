"""What text on a terminal needs: its characters, its room, bars, tables, the live view."""
