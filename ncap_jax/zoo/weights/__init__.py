"""Reading, checking and caching pretrained weights."""
