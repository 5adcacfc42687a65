"""Parquet files with unusual columns or damaged rows: labels and captions stay right, or are refused by name."""

import numpy as np
import pytest

from datamodules.sources.open import open_source
from tests.datamodules.collections import encoded, overwritten, picture, read_all


@pytest.mark.parametrize("column", ["label", "labels", "cls"])
def test_labels_of_parquet_files_go_by_several_names(tmp_path, column):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    captions = [["a", None], None, ["b"]]
    table = pyarrow.table({"image": [encoded(picture(n)) for n in range(3)], column: [2, 0, 1], "text": captions})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    found, labels, refused = read_all(open_source("imagenet", tmp_path, "train"))
    assert list(labels.values()) == [2, 0, 1] and list(found.values()) == [("a",), (), ("b",)] and not refused


def test_captions_of_parquet_files_that_are_no_text_and_no_labels(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"image": [encoded(picture(1))], "text": [3]})
    parquet.write_table(table, tmp_path / "train-0.parquet")
    captions, _, refused = read_all(open_source("cc3m", tmp_path, "train"))
    assert not captions and "is of type int" in refused["train-0.parquet/0/0"]
    with pytest.raises(ValueError, match=r"no label column \(label, labels, cls\) among them"):
        open_source("imagenet", tmp_path, "train")


@pytest.mark.parametrize("column", ["image", "label"])
def test_a_damaged_row_group_loses_its_own_rows_only(tmp_path, column):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    # Noise, so that pages are stored as they are.
    values = np.random.default_rng(0).integers(0, 256, (12, 40), np.uint8)
    table = pyarrow.table({"image": [row.tobytes() for row in values], "label": [n % 3 for n in range(12)]})
    path = tmp_path / "train-0.parquet"
    parquet.write_table(table, path, row_group_size=4, use_dictionary=False)
    chunk = parquet.ParquetFile(path).metadata.row_group(1).column(table.column_names.index(column))
    start, size = chunk.data_page_offset, chunk.total_compressed_size
    path.write_bytes(overwritten(path.read_bytes(), start, start + size, b"\xff"))
    source = open_source("imagenet", tmp_path, "train")
    _, labels, refused = read_all(source)
    assert list(labels.values()) == [n % 3 for n in (*range(4), *range(8, 12))] and len(source.class_names) == 3
    assert list(refused) == ["train-0.parquet, row group 1"]
    assert refused["train-0.parquet, row group 1"].startswith("damaged, its 4 rows are lost (")
