"""The drawn world: pictures, captions with known labels, and the small OFA that was trained on them."""
