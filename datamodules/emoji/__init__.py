"""The embedded data set: 1,898 emoji, drawn in two styles, with a category and a caption each."""
