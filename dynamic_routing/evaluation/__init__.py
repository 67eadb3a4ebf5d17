"""Evaluators for Detectron2, and the file that keeps every image's gates."""
