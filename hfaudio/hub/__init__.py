"""Model folders that other people's projects open."""
