"""Image collections as they lie on disk: class folders, captioned folders, tar shards, parquet files, COCO, lists."""
