"""Write the golden frames anew: only for a new version of the format, and under a new name. `python tests/golden/wire/write.py`."""

import importlib.util
from pathlib import Path

from iiot_dask.adapter.wire import VERSION, encode

HERE = Path(__file__).parent

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("test_wire", HERE.parents[1] / "adapter" / "test_wire.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opening, *rest = module.golden_down()
    for name, frames in (("up", module.golden_up()), ("down", [opening.frame(), *rest])):
        (HERE / f"v{VERSION}-{name}.bin").write_bytes(b"".join(map(encode, frames)))
