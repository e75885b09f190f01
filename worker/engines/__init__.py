"""Engines: what judges a picture and a caption. The only room where torch and modelscope are imported."""
