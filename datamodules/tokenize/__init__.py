"""From a collection of images to a token store: decode, crop, encode, collect."""
