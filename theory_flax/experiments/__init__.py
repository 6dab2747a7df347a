"""Shared by experiments: networks and images to measure, and trainings that are compared."""
