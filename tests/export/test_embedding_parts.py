"""Parts of embeddings in a bucket that does not answer for a moment."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdssl.export.embedding_parts import Parts
from mdssl.storage import retry as retries
from mdssl.storage.location import Location


class OneImage:
    name, has_labels, key_types = "images", False, {"row": pa.int64()}

    def __len__(self):
        return 1

    def state(self, rows):
        return "as it is"

    def keys(self, rows):
        return {"row": rows}


def test_a_request_that_fails_for_a_moment_is_tried_again(monkeypatch):
    def parts():
        return Parts(Location.of("memory://embeddings/out.parquet"), {}, OneImage(), size=32, skip_damaged=False)

    read_schema, errors = pq.read_schema, []

    def read(file):
        if errors:
            raise errors.pop()
        return read_schema(file)

    monkeypatch.setattr(pq, "read_schema", read)
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)
    with retries.retrying(60):
        parts().write(0, np.arange(1), np.ones((1, 2), np.float32), {})
        errors.append(OSError("AWS Error SLOW_DOWN"))
        assert parts().done == {0}
        parts().join()
        errors.append(OSError("AWS Error SLOW_DOWN"))
        assert parts().is_complete()
    assert not errors
